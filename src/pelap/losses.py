"""Pure functions from tensors to scalars, and the one objective that adds them up."""

import math
from dataclasses import dataclass, fields

from torch import Tensor
from torch.nn import functional as F

from pelap.config import ObjectiveConfig
from pelap.system import SystemOutput


@dataclass(frozen=True)
class Losses:
    """The terms before their weights, and the weighted total. Scalars."""

    total_loss: Tensor
    reconstruction_loss: Tensor
    kl_loss: Tensor
    diffusion_loss: Tensor
    sparsity_loss: Tensor | None
    """Mean mask; None where there is no gate."""

    def named(self) -> dict[str, Tensor]:
        """The terms there are, by name."""
        terms = {term.name: getattr(self, term.name) for term in fields(self)}
        return {name: value for name, value in terms.items() if value is not None}


def reconstruction_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error per value, images (B, 3, H, W) in [-1, 1] (arXiv 2606.23086)."""
    return F.mse_loss(reconstruction, images)


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(logvar)) from N(0, 1), mean per latent value.

    −½·mean(1 + logvar − mean² − exp(logvar)) (Kingma and Welling, arXiv 1312.6114, appendix B).

    Args:
        mean: (B, C, h, w).
        logvar: (B, C, h, w).

    Returns:
        Scalar in nats per latent value.
    """
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).mean()


def diffusion_loss(prediction: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of predicted noise, (B, C, h, w) (Ho et al., arXiv 2006.11239, eq. 14)."""
    return F.mse_loss(prediction, noise)


def sparsity_loss(mask: Tensor) -> Tensor:
    """Mean mask, (B, C) in [0, 1] (arXiv 2606.23086)."""
    return mask.mean()


def gaussian_diffusion_loss(latent_std: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Noise loss of the best predictor for independent Gaussian latents.

    Mean over t and channels of ᾱ_t·s² / (ᾱ_t·s² + 1 − ᾱ_t), the variance of the noise that is left
    once the noisy latent is known. It tends to 0 with s: a small latent makes the task trivial.

    Args:
        latent_std: Standard deviation s of each channel, (C,).
        alphas_cumprod: ᾱ_t of the forward process, (T,).

    Returns:
        Scalar.
    """
    signal = alphas_cumprod[:, None] * latent_std.square()[None, :]  # (T, C)
    return (signal / (signal + 1 - alphas_cumprod[:, None])).mean()


def objective(
    output: SystemOutput, images: Tensor, noise: Tensor, config: ObjectiveConfig, gated: bool
) -> Losses:
    """The paper's joint objective: reconstruction + KL + diffusion + λ·mean mask.

    Args:
        output: What the system made of `images`.
        images: (B, 3, H, W) in [-1, 1].
        noise: What the denoiser had to predict, (B, C, h, w).
        config: Weights of the terms.
        gated: Whether there is a gate whose mask the sparsity term closes.
    """
    reconstruction = reconstruction_loss(output.reconstruction, images)
    kl = kl_loss(output.latent.mean, output.latent.logvar)
    diffusion = diffusion_loss(output.prediction, noise)
    sparsity = sparsity_loss(output.gate.mask) if gated else None
    total = (
        config.reconstruction_weight * reconstruction
        + config.kl_weight * kl
        + config.diffusion_weight * diffusion
    )
    if sparsity is not None:
        total = total + config.sparsity_weight * sparsity
    return Losses(total, reconstruction, kl, diffusion, sparsity)


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error per value, images in [-1, 1]."""
    return 10 * math.log10(4.0 / mean_squared_error)
