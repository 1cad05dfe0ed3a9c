"""From a config to an autoencoder and a denoiser."""

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel

from pelap.config import AutoencoderConfig, NetworkConfig
from pelap.networks.autoencoder import PaperAutoencoder
from pelap.networks.denoiser import PaperUNet


def build_networks(
    config: NetworkConfig, autoencoder: AutoencoderConfig, latent_size: int
) -> tuple[PaperAutoencoder | AutoencoderKL, PaperUNet | UNet2DModel]:
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


def _build_denoiser(config: NetworkConfig, latent_size: int) -> PaperUNet | UNet2DModel:
    channels, width = config.latent_channels, config.denoiser_channels
    if config.denoiser == "paper":
        return PaperUNet(channels, width, config.time_channels)
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
    )
