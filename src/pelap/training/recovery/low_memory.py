"""What makes a training fit: bfloat16, an optimiser in 8 bits, activations computed again."""

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from pelap.core.errors import ConfigError
from pelap.families.conditioned import bare
from pelap.method.step import uses_bf16
from pelap.models.precision import InPrecision
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import Student, Teacher


def check_device(settings: RecoverySettings, device: torch.device) -> None:
    """Refuse what there is not on a device.

    Raises:
        ConfigError: Names the option.
    """
    if settings.optimizer == "adamw8bit" and device.type != "cuda":
        raise ConfigError(
            f"--optimizer adamw8bit needs a CUDA device, this is {device.type}: give adamw."
        )
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if settings.precision == "bf16" and not has_bf16:
        raise ConfigError("--precision bf16: this GPU does not compute in bfloat16; give fp32.")


def takes_bf16(settings: RecoverySettings, device: torch.device) -> bool:
    """Whether to autocast: "auto" does on a GPU made for it, and never on a CPU."""
    if settings.precision == "auto" and device.type != "cuda":
        return False
    return uses_bf16(settings.precision, device)


def hold_in_bf16(teacher: Teacher, device: torch.device) -> None:
    """Keep the teacher's denoiser in bfloat16, in place; it goes on taking and giving float32."""
    denoiser = teacher.system.denoiser
    if denoiser is not None:
        # in place, so that what listens to its blocks goes on hearing them
        nn.Module.to(denoiser, device, torch.bfloat16)
        teacher.system.denoiser = InPrecision(denoiser, "bf16", device=device)


def build_adamw(settings: RecoverySettings, student: Student) -> Any:
    """AdamW without weight decay; in 8 bits its two averages take a quarter of the memory."""
    groups = (
        {"params": student.denoiser_weights},
        {"params": student.decoder_weights, "rate_factor": settings.decoder_factor},
    )
    weights: Any = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw8bit":
        import bitsandbytes  # type: ignore[import-not-found]

        return bitsandbytes.optim.AdamW8bit(weights, lr=settings.rate(0), weight_decay=0.0)
    return AdamW(weights, lr=settings.rate(0), weight_decay=0.0, fused=True)


def checkpoint_gradients(student: Student) -> list[str]:
    """Let trained networks compute their activations again going backward.

    Returns:
        Classes of those that cannot.
    """
    trained = [student.model.autoencoder] if student.trains_decoder else []
    trained += [bare(student.system.denoiser)] if student.trains_denoiser else []
    for network in trained:
        if _has_checkpointing(network):
            network.enable_gradient_checkpointing()  # type: ignore[operator]
    return [type(network).__name__ for network in trained if not _has_checkpointing(network)]


def _has_checkpointing(network: nn.Module) -> bool:
    """Whether a network of diffusers can do without its activations."""
    return bool(getattr(network, "_supports_gradient_checkpointing", False))
