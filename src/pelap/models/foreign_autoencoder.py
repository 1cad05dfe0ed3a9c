"""Any autoencoder behind the interface of diffusers' `AutoencoderKL`."""

from typing import Any

import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

NO_VARIANCE = -30.0
"""Logarithm of the variance of latents that are no distribution; diffusers clamps there."""


class ForeignAutoencoder(nn.Module):
    """Any autoencoder of diffusers, or one's own, with the interface of `AutoencoderKL`.

    Encoders without a distribution (VQModel, AutoencoderTiny, AutoencoderDC) get one that is as
    good as a point.

    Args:
        autoencoder: `encode` gives `latent_dist`, `latents`, `latent` or a tensor; `decode` gives
            `sample` or a tensor.
    """

    def __init__(self, autoencoder: Any):
        super().__init__()
        self.autoencoder = autoencoder

    @property
    def config(self) -> dict[str, Any]:
        """The autoencoder's, with the number of channels that leave its encoder."""
        config = dict(getattr(self.autoencoder, "config", {}))
        channels = config.get("vq_embed_dim") or config.get("latent_channels")
        if channels is None:
            channels = self.autoencoder.latent_channels
        return config | {"latent_channels": channels}

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        """Distribution of the latents (B, C, h, w) of images (B, 3, H, W) in [-1, 1]."""
        encoded = self.autoencoder.encode(images)
        if isinstance(encoded, Tensor):
            latents = encoded
        elif "latent_dist" in encoded:
            return encoded
        else:
            latents = encoded["latents"] if "latents" in encoded else encoded["latent"]
        moments = torch.cat([latents, torch.full_like(latents, NO_VARIANCE)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Images (B, 3, H, W) of latents (B, C, h, w)."""
        decoded = self.autoencoder.decode(latents)
        return DecoderOutput(sample=decoded) if isinstance(decoded, Tensor) else decoded
