"""Parameters and multiply-accumulates of a system, and of any model's networks."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pelap.config.run_config import RunConfig
from pelap.families.registry import autoencoder_ports
from pelap.measure.macs import count_call_macs, count_denoiser_macs
from pelap.method.system import LatentDiffusion, latent_shape
from pelap.models.foreign_autoencoder import ForeignAutoencoder
from pelap.models.loaded import LoadedModel


@dataclass(frozen=True)
class Counts:
    """Of one model; None where it cannot be known."""

    parameters: dict[str, int | None]
    """Of encoder, decoder, denoiser, and of all together."""
    macs: dict[str, int | None]
    """Multiply-accumulates for one picture: `denoiser_step` and `decode`."""


UNKNOWN = Counts(
    dict.fromkeys(("encoder", "decoder", "denoiser", "total")),
    dict.fromkeys(("denoiser_step", "decode")),
)


def num_parameters(network: nn.Module | None) -> int:
    """Parameters of a network; None has none."""
    return 0 if network is None else sum(weight.numel() for weight in network.parameters())


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


def count_model(model: LoadedModel, side: int) -> Counts:
    """Count everything at latents of a side; nothing is computed.

    Args:
        model: An autoencoder, with or without a denoiser.
        side: Height and width of the latents.

    Raises:
        ModelError: If a class is unknown, or cannot be run.
    """
    ports = autoencoder_ports(model.autoencoder)
    decoding = {layer.split(".")[0] for layer in (ports.decoder, ports.post_quant) if layer}
    decoder = sum(
        num_parameters(part)
        for name, part in model.autoencoder.named_children()
        if name in decoding
    )
    autoencoder, denoiser = num_parameters(model.autoencoder), model.denoiser
    weightless = ForeignAutoencoder(copy.deepcopy(model.autoencoder).to("meta"))
    dtype = next(weightless.parameters()).dtype
    latents = torch.zeros(1, model.num_channels, side, side, device="meta", dtype=dtype)
    return Counts(
        {
            "encoder": autoencoder - decoder,
            "decoder": decoder,
            "denoiser": None if denoiser is None else num_parameters(denoiser),
            "total": autoencoder + num_parameters(denoiser),
        },
        {
            "denoiser_step": None if denoiser is None else count_denoiser_macs(denoiser, side),
            "decode": count_call_macs(lambda: weightless.decode(latents)),
        },
    )
