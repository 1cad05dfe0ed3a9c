"""What a system costs: parameters and multiply-accumulates, counted, and the machine's kind."""

import platform
from typing import Any

import diffusers
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pelap
from pelap.config import RunConfig
from pelap.system import LatentDiffusion, latent_shape


def count_parameters(system: LatentDiffusion) -> dict[str, int]:
    """Parameters of each part and of all together."""
    parts = {"autoencoder": system.autoencoder, "importance": system.importance,
             "denoiser": system.denoiser}  # fmt: skip
    counts = {name: _num_parameters(part) for name, part in parts.items()}
    return counts | {"total": sum(counts.values())}


def count_macs(system: LatentDiffusion, config: RunConfig) -> dict[str, int]:
    """Multiply-accumulates of convolutions and matrix products for one picture or latent.

    Two floating-point operations a multiply-accumulate, counted by torch's FlopCounterMode on the
    CPU: encoder, decoder, importance predictor, and one denoiser step.
    """
    size = config.data.size
    image, latent = torch.zeros(1, 3, size, size), torch.zeros(1, *latent_shape(config))
    timestep = torch.zeros(1, dtype=torch.long)
    counts = {
        "encoder": _macs(lambda: system.autoencoder.encode(image)),
        "decoder": _macs(lambda: system.autoencoder.decode(latent)),
        "denoiser_step": _macs(lambda: system.denoiser(latent, timestep)),
    }
    importance = system.importance
    if importance is not None:
        counts["importance"] = _macs(lambda: importance(latent))
    return counts


def describe(system: LatentDiffusion, config: RunConfig) -> dict[str, Any]:
    """Parameters, shapes and multiply-accumulates of a config's system."""
    return {
        "preset": config.preset,
        "num_parameters": count_parameters(system),
        "shapes": {
            "image": [3, config.data.size, config.data.size],
            "latent": list(latent_shape(config)),
            "mask": [config.network.latent_channels],
        },
        "macs": count_macs(system, config),
    }


def versions() -> dict[str, str]:
    """Versions of what made a result."""
    return {
        "pelap": pelap.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def machine() -> str:
    """The kind of machine in a few words, without its name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    features = torch.cpu.get_capabilities()
    native = [
        name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if features.get(name)
    ]
    kind = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{kind}, {native[0]}" if native else kind


def _num_parameters(part: nn.Module | None) -> int:
    return sum(p.numel() for p in part.parameters()) if part is not None else 0


@torch.no_grad()
def _macs(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2
