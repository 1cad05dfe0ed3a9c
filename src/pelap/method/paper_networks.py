"""The paper's networks by the names that a saved model's config calls them."""

from pelap.method.paper_autoencoder import PaperAutoencoder
from pelap.method.paper_denoiser import PaperUNet

__all__ = ["PaperAutoencoder", "PaperUNet"]
