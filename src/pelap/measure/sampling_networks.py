"""The two calls that sampling consists of, whatever computes them."""

from typing import Any, Protocol

import torch
from torch import Tensor

from pelap.families.registry import denoiser_family, example_inputs
from pelap.method.normalizer import LatentNormalizer
from pelap.models.loaded import LoadedModel
from pelap.models.precision import InPrecision, Precision


class SamplingNetworks(Protocol):
    """A denoiser and a decoder, with their conditions inside."""

    def predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the denoiser says of noisy latents (B, C, h, w) at a 0-dimensional timestep:
        (B, C, h, w), float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), float32, of latents (B, C, h, w) as the denoiser sees them."""
        ...


class TorchNetworks:
    """A model's networks in torch. Text, classes and sizes are the random ones of `example_inputs`.

    Args:
        model: With a denoiser of a known class; it stays as it is.
        side: Height and width of the latents.
        precision: Of weights and arithmetic; latents are float32 between calls.
        compiled: Whether torch.compile translates both networks.
        device: Where they compute.
    """

    def __init__(
        self,
        model: LoadedModel,
        side: int,
        precision: Precision = "fp32",
        *,
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ):
        options: Any = {"compiled": compiled, "device": device}
        self._denoiser = InPrecision(model.denoiser, precision, **options)
        self._autoencoder = InPrecision(model.autoencoder, precision, **options)
        normalizer = model.normalizer or LatentNormalizer(model.num_channels).eval()
        self._normalizer = normalizer.to(device)
        self._shape = (model.num_channels, side, side)
        self._family = denoiser_family(self._denoiser.network)
        self._conditions: dict[int, dict[str, Any]] = {}

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """As in SamplingNetworks; what it says of its variance is left out."""
        others = dict(self._examples(len(latents)))
        first, given = next(iter(others.items()))
        del others[first]
        others["timestep"] = timestep.to(latents.device).expand(len(latents))
        family, channels = self._family, latents.shape[1]
        if family.timestep_divisor != 1:
            others["timestep"] = others["timestep"] / family.timestep_divisor
        packed = family.packing.pack(latents)
        if given.shape[1] > packed.shape[1]:  # inpainting: mask and picture
            packed = torch.cat([packed, given[:, channels:].float()], dim=1)
        predicted = self._denoiser(packed, **others).sample
        return family.packing.unpack(predicted, *latents.shape[2:])[:, :channels]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """As in SamplingNetworks."""
        return self._autoencoder.decode(self._normalizer.inverse(latents)).sample

    def _examples(self, num_pictures: int) -> dict[str, Any]:
        if num_pictures not in self._conditions:
            found = example_inputs(self._denoiser.network, num_pictures, self._shape[1])
            self._conditions[num_pictures] = found
        return self._conditions[num_pictures]
