"""A denoiser that wants text or classes, called as one that needs latents and a timestep only."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import LabelEmbedding
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from pelap.families.latent_axes import by_picture
from pelap.families.packing import UNPACKED, Packing
from pelap.families.registry import config_of, denoiser_family

Told = dict[str, Any]
"""Arguments of a denoiser's forward, a row a picture."""


@dataclass(frozen=True)
class Condition:
    """What a pipeline passes to its denoiser beside latents and timestep, for one picture."""

    arguments: Told
    """Of `denoiser.forward`: tensors (1, …), dictionaries of them, and values."""
    latents_name: str
    """The argument that takes the latents."""
    is_flow: bool = False
    """Whether the denoiser predicts noise − latents for (1 − σ)·latents + σ·noise."""
    timestep_scale: float = 1.0
    """What the pipeline multiplies its scheduler's timesteps by."""
    packing: Packing = UNPACKED
    """How it takes them."""
    shared: tuple[str, ...] = ()
    """Arguments that all pictures of a batch share."""


class ConditionedDenoiser(nn.Module):
    """A denoiser under a condition: the same for every picture unless a call brings its own.

    Labels are dropped by whoever trains, once for all blocks; diffusers' embeddings would drop them
    block by block. Predictions of variances are left out. A flow model is shown as one that
    predicts v for variance-preserving noise: with s² = (1 − σ)² + σ² and
    x = √ᾱ·latents + √(1 − ᾱ)·noise, where √ᾱ = (1 − σ)/s, its input is s·x, and
    v = (1 − 2σ)·x + s·(its prediction).

    Args:
        denoiser: Takes the condition's arguments.
        condition: From its own pipeline.
    """

    def __init__(self, denoiser: nn.Module, condition: Condition):
        super().__init__()
        self.denoiser = denoiser
        self.condition = condition
        for module in denoiser.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0

    @property
    def config(self) -> Any:
        """The denoiser's."""
        return self.denoiser.config

    def forward(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> UNet2DOutput:
        """Its prediction (B, C, *axes) for noisy latents (B, C, *axes) at timesteps (B,).

        Args:
            noisy: Latents with noise.
            timesteps: (B,), or one for all.
            told: Arguments of its forward with a row for each picture, in the condition's place.
        """
        if not self.condition.is_flow:
            return UNet2DOutput(sample=self.native(noisy, timesteps, told))
        timesteps = torch.as_tensor(timesteps, device=noisy.device).expand(len(noisy))
        exact = torch.promote_types(noisy.dtype, torch.float32)
        sigmas = flow_sigmas().to(noisy.device, exact)[timesteps]  # (B,)
        size = by_picture(flow_size(timesteps).to(noisy.device, exact), noisy)
        flow = self.native((size * noisy).to(noisy.dtype), 1000 * sigmas, told)  # (B, C, h, w)
        velocity = by_picture(1 - 2 * sigmas, noisy) * noisy + size * flow
        return UNet2DOutput(sample=velocity.to(noisy.dtype))

    def native(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> Tensor:
        """What the denoiser itself says (B, C, h, w) at its own timesteps (B,): a flow's prediction
        noise − latents for (1 − σ)·latents + σ·noise at 1000·σ."""
        condition = self.condition
        timesteps = torch.as_tensor(timesteps, device=noisy.device).expand(len(noisy))
        arguments = _for_batch(condition.arguments | (told or {}), noisy, condition.shared)
        arguments[condition.latents_name] = condition.packing.pack(noisy)
        scale = condition.timestep_scale
        arguments["timestep"] = timesteps if scale == 1 else timesteps * scale
        predicted = self.denoiser(**arguments, return_dict=False)[0]
        return condition.packing.unpack(predicted, *noisy.shape[2:])[:, : noisy.shape[1]]


def bare(denoiser: nn.Module) -> nn.Module:
    """The network itself, without its condition."""
    return denoiser.denoiser if isinstance(denoiser, ConditionedDenoiser) else denoiser


def flow_sigmas() -> Tensor:
    """σ of 1,000 timesteps, the middles of equal parts of (0, 1)."""
    return (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def flow_size(timesteps: Tensor) -> Tensor:
    """s of timesteps (B,): a flow's noisy latents are s times those of `ConditionedDenoiser`."""
    sigmas = flow_sigmas()[timesteps.cpu()]
    return ((1 - sigmas).square() + sigmas.square()).sqrt()


def class_condition(denoiser: nn.Module, *, is_flow: bool) -> Condition:
    """A denoiser that takes classes, told none."""
    config = config_of(denoiser)
    family = denoiser_family(denoiser)
    labels = torch.tensor([family.none_class(config)])
    return Condition({"class_labels": labels}, family.latents_name, is_flow)


def tell_classes(denoiser: nn.Module, labels: Tensor, drops: Tensor | None = None) -> Told | None:
    """What a class-conditional denoiser is told of pictures with these labels.

    Args:
        denoiser: None is returned for one without `class_labels` in its condition.
        labels: int64, (B,).
        drops: Which pictures have no class, bool, (B,).
    """
    condition = getattr(denoiser, "condition", None)
    none = condition.arguments.get("class_labels") if condition is not None else None
    if none is None:
        return None
    if drops is not None:
        labels = torch.where(drops.to(labels.device), none.to(labels.device), labels)
    return {"class_labels": labels}


def flow_alphas_cumprod() -> Tensor:
    """ᾱ of the same timesteps as `ConditionedDenoiser` shows them, (1000,), float64."""
    signal, noise = (1 - flow_sigmas()).square(), flow_sigmas().square()
    return signal / (signal + noise)


def _for_batch(arguments: Told, noisy: Tensor, shared: tuple[str, ...]) -> Told:
    """One picture's arguments for all pictures of a batch."""

    def repeat(name: str, value: object) -> object:
        if isinstance(value, dict):
            return _for_batch(value, noisy, shared)
        if not isinstance(value, Tensor):
            return value
        value = value.to(noisy.device, noisy.dtype if value.is_floating_point() else None)
        return value if name in shared else value.expand(len(noisy), *value.shape[1:])

    return {name: repeat(name, value) for name, value in arguments.items()}
