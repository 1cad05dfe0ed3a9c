"""Where a class of models carries its latent channels.

A port is one axis of one layer, with the way the channels are packed into it. Removing, rotating
and filling channels then is the same arithmetic for every class; see
`pelap.pruning.latents.latent_slicing`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pelap.core.errors import ModelError

Kind = Literal["mean", "variance"]
"""What a feature says of its channel: a value, or (a logarithm of) its variance."""
MOMENTS: tuple[Kind, ...] = ("mean", "variance")
State = dict[str, Tensor]
"""A network's weights and statistics by dotted name."""
Config = Mapping[str, Any]
"""What a network of diffusers was built from."""
Updates = dict[str, Any]
"""Fields of a config that change, with their new values."""


@dataclass(frozen=True)
class Port:
    """One axis of one layer that carries latent channels.

    The axis is packed as (outer, channel, inner), the outer index running through `kinds`: a KL
    encoder's last layer has kinds mean and variance; Flux packs 2×2 patches behind each channel,
    so its inner is 4; DiT packs patches before the channels. Features that are no latent (the mask
    of an inpainting UNet) stand after the first C.
    """

    layer: str
    """Dotted name of a convolution or linear layer."""
    kinds: tuple[Kind, ...] = ("mean",)
    inner: int = 1
    takes_others: bool = False
    """Whether features that are no latent may stand among the channels."""

    def count_others(self, size: int, num_channels: int) -> int:
        """Features on an axis of that size that are no latent.

        Raises:
            ModelError: If so many channels do not fit that axis.
        """
        blocks, others = divmod(size, num_channels * self.inner)
        if blocks % len(self.kinds) or not blocks or (others and not self.takes_others):
            raise ModelError(
                f"{self.layer} has {size} features: {num_channels} latent channels do not fit."
            )
        return others

    def members(self, size: int, num_channels: int, others: int) -> Tensor:
        """Indices (C, n) of the features of each channel on an axis of that size."""
        block = num_channels * self.inner
        blocks = (size - others) // block
        indices = torch.arange(blocks * block).view(blocks, num_channels, self.inner)
        if others:
            indices[1:] += others
        return indices.transpose(0, 1).reshape(num_channels, blocks * self.inner)  # (C, n)

    def kind(self, column: int) -> Kind:
        """What the features in a column of `members` say."""
        return self.kinds[column // self.inner % len(self.kinds)]


@dataclass(frozen=True)
class AutoencoderPorts:
    """The latent layers of an autoencoder."""

    encoder: tuple[Port, ...]
    """Layers whose outputs are the latents (and the logarithms of their variances)."""
    decoder: str
    """The convolution or linear layer that reads the latents."""
    quant: str | None = None
    """A 1×1 convolution after the encoder's layer, where the model has one."""
    post_quant: str | None = None
    """A 1×1 convolution in front of the decoder's layer, where the model has one."""
    tanh_scale: float | None = None
    """The decoder squashes latents to scale·tanh(latents / scale) first."""
    fold_shortcuts: Callable[[State, Config], Updates] | None = None
    """Writes shortcuts around the latent layers into those layers' weights, in place, given the
    config; returns the config fields that switch the shortcuts off."""
    statistics: tuple[Port, ...] = ()
    """Batch norms whose running statistics go by channel."""
    rotates: bool = True
    """Whether a change of basis can be expressed in what the class can store."""
    optional_post_quant: str | None = None
    """The config field that switches `post_quant` on."""


@dataclass(frozen=True)
class DenoiserPorts:
    """The latent layers of a denoiser."""

    input: Port
    output: Port
    forbidden: dict[str, str] = field(default_factory=dict)
    """Block type prefixes that read latents elsewhere too, and why that stops us."""
    input_norm: str | None = None
    """A group norm (then SiLU) in front of the input layer, where the model has one."""


class PortedAutoencoder(Protocol):
    """One's own autoencoder: what it must have to be analysed, and its ports to be pruned."""

    latent_channels: int
    ports: AutoencoderPorts

    def encode(self, images: Tensor) -> Any:
        """Latents (B, C, h, w), or what has them as `latent_dist`, `latents` or `latent`."""
        ...

    def decode(self, latents: Tensor) -> Any:
        """Images (B, 3, H, W) in [-1, 1], or what has them as `sample`."""
        ...
