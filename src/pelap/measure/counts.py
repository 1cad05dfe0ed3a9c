"""Parameters and multiply-accumulates of a model's networks."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pelap.families.registry import autoencoder_ports
from pelap.measure.macs import count_call_macs, count_denoiser_macs
from pelap.measure.run_cost import num_parameters
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


def count_model(model: LoadedModel, side: int) -> Counts:
    """Count everything at latents of a side; nothing is computed.

    Args:
        model: With a denoiser.
        side: Height and width of the latents.

    Raises:
        ModelError: If a class is unknown.
    """
    assert model.denoiser is not None
    autoencoder = num_parameters(model.autoencoder)
    decoder = sum(
        num_parameters(part)
        for name, part in model.autoencoder.named_children()
        if name in _decoder_names(model.autoencoder)
    )
    denoiser = num_parameters(model.denoiser)
    parameters: dict[str, int | None] = {
        "encoder": autoencoder - decoder, "decoder": decoder, "denoiser": denoiser,
        "total": autoencoder + denoiser,
    }  # fmt: skip
    macs: dict[str, int | None] = {
        "denoiser_step": count_denoiser_macs(model.denoiser, side),
        "decode": count_decoder_macs(model.autoencoder, model.num_channels, side),
    }
    return Counts(parameters, macs)


def count_decoder_macs(autoencoder: nn.Module, num_channels: int, side: int) -> int:
    """Multiply-accumulates of decoding one latent (C, side, side), on the meta device."""
    weightless = ForeignAutoencoder(copy.deepcopy(autoencoder).to("meta"))
    dtype = next(weightless.parameters()).dtype
    latents = torch.zeros(1, num_channels, side, side, device="meta", dtype=dtype)
    return count_call_macs(lambda: weightless.decode(latents))


def _decoder_names(autoencoder: nn.Module) -> set[str]:
    """Of the parts that decoding uses."""
    ports = autoencoder_ports(autoencoder)
    return {layer.split(".")[0] for layer in (ports.decoder, ports.post_quant) if layer}
