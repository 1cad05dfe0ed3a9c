"""The paper's convolutional variational autoencoder as a diffusers model."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pelap.method.paper_blocks import ResidualBlock


class PaperAutoencoder(ModelMixin, ConfigMixin):
    """Images (B, 3, H, W) in [-1, 1] ↔ latents (B, C, H/4, W/4).

    The layers of PeLAP-A (arXiv 2606.23086); at the default width 2,127,499 parameters.
    `encode` and `decode` return what diffusers' `AutoencoderKL` returns.

    Args:
        latent_channels: C.
        base_channels: Width of the outermost level; the inner levels are twice as wide. A
            multiple of 8.
        latents_mean: Mean of each latent channel, for whoever normalises latents; unused here.
        latents_std: Standard deviation of each latent channel, for the same purpose.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        base_channels: int = 64,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        outer, inner = base_channels, 2 * base_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, outer, 3, padding=1),
            ResidualBlock(outer),
            nn.Conv2d(outer, inner, 4, stride=2, padding=1),
            ResidualBlock(inner),
            nn.Conv2d(inner, inner, 4, stride=2, padding=1),
            ResidualBlock(inner),
            nn.GroupNorm(8, inner),
            nn.SiLU(),
        )
        self.to_mean = nn.Conv2d(inner, latent_channels, 1)
        self.to_logvar = nn.Conv2d(inner, latent_channels, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, inner, 3, padding=1),
            ResidualBlock(inner),
            nn.ConvTranspose2d(inner, inner, 4, stride=2, padding=1),
            ResidualBlock(inner),
            nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1),
            ResidualBlock(outer),
            nn.GroupNorm(8, outer),
            nn.SiLU(),
            nn.Conv2d(outer, 3, 3, padding=1),
            nn.Tanh(),
        )

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        """Distribution of the latent (B, C, H/4, W/4) given images (B, 3, H, W)."""
        features = self.encoder(images)  # (B, 2·base, H/4, W/4)
        moments = torch.cat([self.to_mean(features), self.to_logvar(features)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, C, H/4, W/4)."""
        return DecoderOutput(sample=self.decoder(latents))
