"""What a system costs: parameters and multiply-accumulates, counted."""

from typing import Any

import torch
from torch import nn

from pelap.config.run_config import RunConfig
from pelap.measure.macs import count_call_macs
from pelap.method.system import LatentDiffusion, latent_shape


def num_parameters(*networks: nn.Module | None) -> int:
    """Parameters of all networks together; None has none."""
    return sum(p.numel() for part in networks if part is not None for p in part.parameters())


def count_parameters(system: LatentDiffusion) -> dict[str, int]:
    """Parameters of each part and of all together."""
    names = ("autoencoder", "importance", "denoiser")
    counts = {name: num_parameters(getattr(system, name)) for name in names}
    return counts | {"total": sum(counts.values())}


def count_macs(system: LatentDiffusion, config: RunConfig) -> dict[str, int]:
    """Multiply-accumulates of convolutions and matrix products for one picture or latent.

    Encoder, decoder, importance predictor, and one denoiser step.
    """
    size = config.data.size
    image, latent = torch.zeros(1, 3, size, size), torch.zeros(1, *latent_shape(config))
    timestep = torch.zeros(1, dtype=torch.long)
    counts = {
        "encoder": count_call_macs(lambda: system.autoencoder.encode(image)),
        "decoder": count_call_macs(lambda: system.autoencoder.decode(latent)),
        "denoiser_step": count_call_macs(lambda: system.denoiser(latent, timestep)),
    }
    importance = system.importance
    if importance is not None:
        counts["importance"] = count_call_macs(lambda: importance(latent))
    return counts


def describe(system: LatentDiffusion, config: RunConfig) -> dict[str, Any]:
    """Parameters, shapes and multiply-accumulates of a config's system, for `pelap describe`."""
    size = config.data.size
    return {
        "preset": config.preset,
        "num_parameters": count_parameters(system),
        "shapes": {
            "image": [3, size, size],
            "latent": list(latent_shape(config)),
            "mask": [config.network.latent_channels],
        },
        "macs": count_macs(system, config),
    }
