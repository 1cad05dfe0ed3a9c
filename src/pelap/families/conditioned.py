"""A denoiser that wants text or classes, called as one that needs latents and a timestep only."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import LabelEmbedding
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import Tensor, nn

NOT_BY_PICTURE = ("img_ids", "txt_ids")
"""Arguments that all pictures of a batch share."""

Told = dict[str, Any]
"""Arguments of a denoiser's forward, a row a picture."""


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
        """Its prediction (B, C, h, w) for noisy latents (B, C, h, w) at timesteps (B,).

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
        size = flow_size(timesteps).to(noisy.device, exact)[:, None, None, None]
        flow = self.native((size * noisy).to(noisy.dtype), 1000 * sigmas, told)  # (B, C, h, w)
        velocity = (1 - 2 * sigmas)[:, None, None, None] * noisy + size * flow
        return UNet2DOutput(sample=velocity.to(noisy.dtype))

    def native(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> Tensor:
        """What the denoiser itself says (B, C, h, w) at its own timesteps (B,): a flow's prediction
        noise − latents for (1 − σ)·latents + σ·noise at 1000·σ."""
        condition = self.condition
        timesteps = torch.as_tensor(timesteps, device=noisy.device).expand(len(noisy))
        arguments = _for_batch(condition.arguments | (told or {}), noisy)
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


def flow_size(timesteps: Tensor) -> Tensor:
    """s of timesteps (B,): a flow's noisy latents are s times those of `ConditionedDenoiser`."""
    sigmas = flow_sigmas()[timesteps.cpu()]
    return ((1 - sigmas).square() + sigmas.square()).sqrt()


def class_condition(denoiser: nn.Module, *, is_flow: bool) -> Condition:
    """A class-conditional denoiser told no class: diffusers' DiT, or a UNet2DModel of ours."""
    config: Any = denoiser.config
    is_unet = isinstance(denoiser, UNet2DModel)
    none = config["num_class_embeds"] - 1 if is_unet else config["num_embeds_ada_norm"]
    name = "sample" if is_unet else "hidden_states"
    return Condition({"class_labels": torch.tensor([none])}, name, False, 1.0, is_flow)


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
