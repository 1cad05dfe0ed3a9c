"""Where each class of model carries its latent channels: one table entry a class.

A port is one axis of one layer, with the way the channels are packed into it. Removing, rotating
and filling channels then is the same arithmetic for every class; see
`pelap.pruning.latents.latent_slicing`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from pelap.core.errors import ModelError

Kind = Literal["mean", "variance"]
"""What a feature says of its channel: a value, or (a logarithm of) its variance."""


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
    averages_encoder: bool = False
    """Means of features are added to the encoder's output, repeated latents to the decoder's input
    layer (the shortcuts of AutoencoderDC)."""
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


_MOMENTS: tuple[Kind, ...] = ("mean", "variance")
_KL = AutoencoderPorts(
    encoder=(Port("encoder.conv_out", kinds=_MOMENTS),),
    decoder="decoder.conv_in",
    quant="quant_conv",
    post_quant="post_quant_conv",
)
_FLUX_2X2 = 4

AUTOENCODER_PORTS: dict[str, AutoencoderPorts] = {
    "AutoencoderKL": AutoencoderPorts(
        _KL.encoder, _KL.decoder, _KL.quant, _KL.post_quant,
        optional_post_quant="use_post_quant_conv",
    ),
    "AsymmetricAutoencoderKL": _KL,
    "AutoencoderKLFlux2": AutoencoderPorts(
        _KL.encoder, _KL.decoder, _KL.quant, _KL.post_quant,
        statistics=(Port("bn", inner=_FLUX_2X2),),
        rotates=False,
        optional_post_quant="use_post_quant_conv",
    ),
    "AutoencoderTiny": AutoencoderPorts(
        encoder=(Port("encoder.layers.-1"),), decoder="decoder.layers.0", tanh_scale=3.0
    ),
    "AutoencoderDC": AutoencoderPorts(
        encoder=(Port("encoder.conv_out"),), decoder="decoder.conv_in", averages_encoder=True
    ),
    "PaperAutoencoder": AutoencoderPorts(
        encoder=(Port("to_mean"), Port("to_logvar", kinds=("variance",))), decoder="decoder.0"
    ),
}  # fmt: skip

_SKIP_BLOCKS = {"Skip": "its skip branches mix latents that have passed no convolution"}
_DIT_INPUT = Port("pos_embed.proj")

DENOISER_PORTS: dict[str, DenoiserPorts] = {
    "UNet2DModel": DenoiserPorts(Port("conv_in"), Port("conv_out"), _SKIP_BLOCKS),
    "UNet2DConditionModel": DenoiserPorts(Port("conv_in", takes_others=True), Port("conv_out")),
    "DiTTransformer2DModel": DenoiserPorts(_DIT_INPUT, Port("proj_out_2")),
    "PixArtTransformer2DModel": DenoiserPorts(_DIT_INPUT, Port("proj_out")),
    "SD3Transformer2DModel": DenoiserPorts(_DIT_INPUT, Port("proj_out")),
    "FluxTransformer2DModel": DenoiserPorts(
        Port("x_embedder", inner=_FLUX_2X2), Port("proj_out", inner=_FLUX_2X2)
    ),
    "SanaTransformer2DModel": DenoiserPorts(Port("patch_embed.proj"), Port("proj_out")),
    "PaperUNet": DenoiserPorts(Port("down.conv_in"), Port("out"), input_norm="down.norm_in"),
}


def autoencoder_ports(autoencoder: nn.Module) -> AutoencoderPorts:
    """The ports of an autoencoder: its own, or those of its class.

    Raises:
        ModelError: If neither is known.
    """
    own = getattr(autoencoder, "ports", None)
    if isinstance(own, AutoencoderPorts):
        return own
    return _find(AUTOENCODER_PORTS, autoencoder, "autoencoder")


def denoiser_ports(denoiser: nn.Module) -> DenoiserPorts:
    """The ports of a denoiser.

    Raises:
        ModelError: If its class, or one of its blocks, is not supported.
    """
    ports = _find(DENOISER_PORTS, denoiser, "denoiser")
    config: Any = denoiser.config
    types = (*(config.get("down_block_types") or ()), *(config.get("up_block_types") or ()))
    for prefix, reason in ports.forbidden.items():
        for name in types:
            if str(name).startswith(prefix):
                raise ModelError(f"The denoiser's {name} is not supported: {reason}.")
    return ports


def check_denoiser(denoiser: nn.Module, num_channels: int) -> None:
    """Refuse a denoiser whose latents have another number of channels.

    Raises:
        ModelError: Names both numbers.
    """
    ports = denoiser_ports(denoiser)
    config: Any = denoiser.config
    fields = (config.get(name) for name in ("latent_channels", "out_channels", "in_channels"))
    found = next(value for value in fields if value is not None) // ports.output.inner
    if found not in (num_channels, 2 * num_channels):
        raise ModelError(
            f"The denoiser {type(denoiser).__name__} predicts {found} latent channels, "
            f"the autoencoder has {num_channels}: they do not belong together."
        )
    layer: Any = denoiser.get_submodule(ports.input.layer)
    ports.input.count_others(layer.weight.shape[1], num_channels)


def _find(table: dict[str, Any], model: nn.Module, role: str) -> Any:
    name = type(model).__name__
    if name not in table:
        raise ModelError(
            f"The {role} {name} is not supported; known are {', '.join(table)}. "
            "docs/ports.md shows how to add one."
        )
    return table[name]
