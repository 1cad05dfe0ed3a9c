"""From a config to an autoencoder and a denoiser."""

from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from pelap.config.run_config import MOST_CLASSES, AutoencoderConfig, NetworkConfig
from pelap.method.paper_autoencoder import PaperAutoencoder
from pelap.method.paper_denoiser import PaperUNet

HEAD_CHANNELS = 64
"""Of a transformer: as wide as is usual, since attention's cost on a CPU goes with their number."""


def build_networks(
    config: NetworkConfig, autoencoder: AutoencoderConfig, latent_size: int
) -> tuple[PaperAutoencoder | AutoencoderKL, PaperUNet | UNet2DModel | DiTTransformer2DModel]:
    """Autoencoder (images four times the latent's side) and denoiser with fresh weights.

    Args:
        config: Kinds and widths.
        autoencoder: Levels and attention of an autoencoder of kind kl.
        latent_size: Side of the latents.
    """
    return _build_autoencoder(config, autoencoder), _build_denoiser(config, latent_size)


def _build_autoencoder(
    config: NetworkConfig, own: AutoencoderConfig
) -> PaperAutoencoder | AutoencoderKL:
    width = config.autoencoder_channels
    if config.autoencoder == "paper":
        return PaperAutoencoder(config.latent_channels, width)
    return AutoencoderKL(
        latent_channels=config.latent_channels,
        block_out_channels=own.widths or (width, 2 * width, 2 * width),  # type: ignore[arg-type]
        down_block_types=("DownEncoderBlock2D",) * 3,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * 3,  # type: ignore[arg-type]
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=1.0,
        mid_block_add_attention=own.attention,
    )


def _build_denoiser(
    config: NetworkConfig, latent_size: int
) -> PaperUNet | UNet2DModel | DiTTransformer2DModel:
    channels, width = config.latent_channels, config.denoiser_channels
    if config.denoiser == "paper":
        return PaperUNet(channels, width, config.time_channels)
    if config.denoiser == "dit":
        transformer = DiTTransformer2DModel(
            num_attention_heads=width // HEAD_CHANNELS,
            attention_head_dim=HEAD_CHANNELS,
            in_channels=channels,
            out_channels=channels,  # DiTPipeline computes with it
            num_layers=config.denoiser_layers,
            sample_size=latent_size,
            patch_size=config.patch_size,
            num_embeds_ada_norm=MOST_CLASSES,
        )
        _begin_as_identity(transformer)
        return transformer
    return UNet2DModel(
        sample_size=latent_size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=config.denoiser_layers,
        attention_head_dim=32,
        norm_num_groups=8,
        num_class_embeds=config.num_classes + 1 if config.num_classes else None,  # the last: none
    )


def _begin_as_identity(transformer: DiTTransformer2DModel) -> None:
    """The initial weights of DiT (Peebles and Xie, arXiv 2212.09748): blocks begin as identities.

    diffusers leaves torch's, with which training is slower.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for module in transformer.modules():  # again: modules come before the layers inside them
        if isinstance(module, TimestepEmbedding):
            nn.init.normal_(module.linear_1.weight, std=0.02)
            nn.init.normal_(module.linear_2.weight, std=0.02)
    blocks: Any = transformer.transformer_blocks
    for layer in (
        *(block.norm1.linear for block in blocks),
        transformer.proj_out_1,
        transformer.proj_out_2,
    ):
        nn.init.zeros_(layer.weight)
