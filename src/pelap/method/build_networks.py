"""From a config to an autoencoder and a denoiser."""

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from pelap.config.run_config import AutoencoderConfig, NetworkConfig
from pelap.families.dit import build_dit
from pelap.families.unet_2d import build_unet_2d
from pelap.method.paper_autoencoder import PaperAutoencoder
from pelap.method.paper_denoiser import PaperUNet


def build_networks(
    config: NetworkConfig, autoencoder: AutoencoderConfig, latent_size: int
) -> tuple[PaperAutoencoder | AutoencoderKL, nn.Module]:
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


def _build_denoiser(config: NetworkConfig, latent_size: int) -> nn.Module:
    if config.denoiser == "paper":
        return PaperUNet(config.latent_channels, config.denoiser_channels, config.time_channels)
    build = build_dit if config.denoiser == "dit" else build_unet_2d
    return build(config, latent_size)
