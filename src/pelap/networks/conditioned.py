"""A denoiser that wants text or classes, called as one that needs latents and a timestep only."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

NOT_BY_PICTURE = ("img_ids", "txt_ids")
"""Arguments that all pictures of a batch share."""


@dataclass(frozen=True)
class Condition:
    """What a pipeline passes to its denoiser beside latents and timestep, for one picture."""

    arguments: dict[str, Any]
    """Of `denoiser.forward`: tensors (1, …), dictionaries of them, and values."""
    latents_name: str
    """The argument that takes the latents."""
    packed: bool
    """Whether it takes them as Flux does, (B, h·w/4, 4C)."""
    timestep_scale: float
    """What the pipeline multiplies its scheduler's timesteps by."""
    is_flow: bool
    """Whether the denoiser predicts noise − latents for (1 − σ)·latents + σ·noise."""


class ConditionedDenoiser(nn.Module):
    """A denoiser under one condition, the same for every picture.

    Predictions of variances are left out. A flow model is shown as one that predicts v for
    variance-preserving noise: with s² = (1 − σ)² + σ² and x = √ᾱ·latents + √(1 − ᾱ)·noise, where
    √ᾱ = (1 − σ)/s, its input is s·x, and v = (1 − 2σ)·x + s·(its prediction).

    Args:
        denoiser: Takes the condition's arguments.
        condition: From its own pipeline.
    """

    def __init__(self, denoiser: nn.Module, condition: Condition):
        super().__init__()
        self.denoiser = denoiser
        self.condition = condition

    @property
    def config(self) -> Any:
        """The denoiser's."""
        return self.denoiser.config

    def forward(self, noisy: Tensor, timesteps: Tensor) -> UNet2DOutput:
        """Its prediction (B, C, h, w) for noisy latents (B, C, h, w) at timesteps (B,)."""
        if not self.condition.is_flow:
            return UNet2DOutput(sample=self._call(noisy, timesteps))
        sigmas = flow_sigmas().to(noisy)[timesteps]  # (B,)
        size = ((1 - sigmas).square() + sigmas.square()).sqrt()[:, None, None, None]
        flow = self._call(size * noisy, 1000 * sigmas)  # (B, C, h, w)
        return UNet2DOutput(sample=(1 - 2 * sigmas)[:, None, None, None] * noisy + size * flow)

    def _call(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        condition = self.condition
        arguments = _for_batch(condition.arguments, noisy)
        arguments[condition.latents_name] = pack(noisy) if condition.packed else noisy
        scale = condition.timestep_scale
        arguments["timestep"] = timesteps if scale == 1 else timesteps * scale
        predicted = self.denoiser(**arguments, return_dict=False)[0]
        if condition.packed:
            predicted = unpack(predicted, *noisy.shape[2:])
        return predicted[:, : noisy.shape[1]]


def bare(denoiser: nn.Module) -> nn.Module:
    """The network itself, without its condition."""
    return denoiser.denoiser if isinstance(denoiser, ConditionedDenoiser) else denoiser


def flow_sigmas() -> Tensor:
    """σ of 1,000 timesteps, the middles of equal parts of (0, 1)."""
    return (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000


def flow_alphas_cumprod() -> Tensor:
    """ᾱ of the same timesteps as `ConditionedDenoiser` shows them, (1000,), float64."""
    signal, noise = (1 - flow_sigmas()).square(), flow_sigmas().square()
    return signal / (signal + noise)


def pack(latents: Tensor) -> Tensor:
    """Flux' 2×2 packing: (B, C, h, w) → (B, h·w/4, 4C)."""
    size, channels, height, width = latents.shape
    parts = latents.view(size, channels, height // 2, 2, width // 2, 2)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(size, height * width // 4, 4 * channels)


def unpack(packed: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`."""
    parts = packed.view(len(packed), height // 2, width // 2, -1, 2, 2)
    return parts.permute(0, 3, 1, 4, 2, 5).reshape(len(packed), -1, height, width)


def _for_batch(arguments: dict[str, Any], noisy: Tensor) -> dict[str, Any]:
    return {name: _repeat(name, value, noisy) for name, value in arguments.items()}


def _repeat(name: str, value: Any, noisy: Tensor) -> Any:
    if isinstance(value, dict):
        return _for_batch(value, noisy)
    if not isinstance(value, Tensor):
        return value
    value = value.to(noisy.device, noisy.dtype if value.is_floating_point() else None)
    return value if name in NOT_BY_PICTURE else value.expand(len(noisy), *value.shape[1:])
