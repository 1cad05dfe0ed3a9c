"""The networks: the paper's autoencoder and denoiser as diffusers models."""

from pelap.networks.autoencoder import PaperAutoencoder
from pelap.networks.denoiser import PaperUNet

__all__ = ["PaperAutoencoder", "PaperUNet"]
