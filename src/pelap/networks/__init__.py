"""The networks: the paper's autoencoder and denoiser as diffusers models, or diffusers' own."""

from pelap.networks.autoencoder import PaperAutoencoder
from pelap.networks.build import build_networks
from pelap.networks.denoiser import PaperUNet

__all__ = ["PaperAutoencoder", "PaperUNet", "build_networks"]
