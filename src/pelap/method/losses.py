"""Pure functions from tensors to scalars, and the one objective that adds them up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from pelap.config.run_config import AutoencoderConfig, ObjectiveConfig
from pelap.families.latent_axes import axes_of
from pelap.method.system import SystemOutput

LEAST_WEIGHT = 1e-8
"""Below this all channels together count as closed: their mean is 0 instead of undefined."""


@dataclass(frozen=True)
class Losses:
    """The terms before their weights, and the weighted total. Scalars; None where there is none."""

    total_loss: Tensor
    reconstruction_loss: Tensor | None = None
    absolute_loss: Tensor | None = None
    feature_loss: Tensor | None = None
    kl_loss: Tensor | None = None
    diffusion_loss: Tensor | None = None
    sparsity_loss: Tensor | None = None
    """Mean mask, where there is a gate."""
    budget_loss: Tensor | None = None
    """The Lagrangian of the number of open channels, where a budget steers a gate."""

    def named(self) -> dict[str, Tensor]:
        """The terms there are, by name."""
        terms = {term.name: getattr(self, term.name) for term in fields(self)}
        return {name: value for name, value in terms.items() if value is not None}


def reconstruction_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean squared error per value, images (B, 3, H, W) in [-1, 1] (arXiv 2606.23086)."""
    return F.mse_loss(reconstruction, images)


def absolute_loss(reconstruction: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error per value, images (B, 3, H, W) in [-1, 1]."""
    return F.l1_loss(reconstruction, images)


def feature_loss(features: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
    """Squared error of a network's features relative to their own mean square, mean over layers.

    Ours, after Johnson et al. (arXiv 1603.08155); relative, so that no layer counts for its scale.

    Args:
        features: Of the reconstruction, (B, C_i, H_i, W_i) a layer.
        references: Of the original, likewise; no gradient goes to them.

    Returns:
        Scalar, dimensionless: 0 for equal features, 1 for features of 0.
    """
    errors = [
        (ours.float() - theirs.float()).square().mean() / theirs.float().square().mean()
        for ours, theirs in zip(features, (x.detach() for x in references), strict=True)
    ]
    return torch.stack(errors).mean()


def kl_loss(mean: Tensor, logvar: Tensor, weights: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of N(mean, exp(logvar)) from N(0, 1), mean per latent value.

    −½·mean(1 + logvar − mean² − exp(logvar)) (Kingma and Welling, arXiv 1312.6114, appendix B).

    Args:
        mean: (B, C, h, w).
        logvar: (B, C, h, w).
        weights: Weight of each channel in the mean, (B, C); equal without.

    Returns:
        Scalar in nats per latent value.
    """
    return channel_mean(-0.5 * (1 + logvar - mean.square() - logvar.exp()), weights)


def diffusion_loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of what the denoiser predicts (Ho et al., arXiv 2006.11239, eq. 14).

    Args:
        prediction: (B, C, h, w).
        target: Noise or velocity, (B, C, h, w).
        weights: Weight of each channel in the mean, (B, C); equal without.
    """
    return channel_mean((prediction - target).square(), weights)


def channel_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of (B, C, h, w) with weights (B, C), as constants: no mask can lower it by closing."""
    if weights is None:
        return values.mean()
    weights = weights.detach()
    means = values.mean(dim=axes_of(values))  # (B, C)
    return (means * weights).sum() / weights.sum().clamp(min=LEAST_WEIGHT)


def sparsity_loss(mask: Tensor) -> Tensor:
    """Mean mask, (B, C) in [0, 1] (arXiv 2606.23086)."""
    return mask.mean()


def budget_loss(num_open: Tensor, target: float, multiplier: Tensor, num_channels: int) -> Tensor:
    """The Lagrangian of a budget: multiplier · (num_open − target) / C.

    The multiplier rises by the same gap at each step (dual ascent), as in CoFi (arXiv 2204.00408)
    and Sheared-LLaMA (arXiv 2310.06694), so that the budget is met whatever the other terms weigh.

    Args:
        num_open: Expected number of open channels, scalar.
        target: Wanted number.
        multiplier: Scalar, a constant here.
        num_channels: C.
    """
    return multiplier * (num_open - target) / num_channels


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
    output: SystemOutput,
    images: Tensor,
    config: ObjectiveConfig,
    gated: bool,
    autoencoder: AutoencoderConfig | None = None,
) -> Losses:
    """The joint objective: reconstruction + KL + diffusion + λ·mean mask + budget.

    Terms whose tensors the stage did not make are left out.

    Args:
        output: What the system made of `images`.
        images: (B, 3, H, W) in [-1, 1]; unused where there is no reconstruction.
        config: Weights of the terms.
        gated: Whether there is a gate whose mask the sparsity term closes.
        autoencoder: Weights of the absolute and the feature loss, where there are such.
    """
    own = autoencoder or AutoencoderConfig()
    latent, gate = output.latent, output.gate
    weights = gate.mask if config.open_channels_only else None
    reconstruction = absolute = feature = kl = diffusion = sparsity = budget = None
    total = latent.latents.new_zeros(())
    if output.reconstruction is not None:
        reconstruction = reconstruction_loss(output.reconstruction, images)
        kl = kl_loss(latent.mean, latent.logvar, weights)
        total = total + config.reconstruction_weight * reconstruction + config.kl_weight * kl
        if own.absolute_weight:
            absolute = absolute_loss(output.reconstruction, images)
            total = total + own.absolute_weight * absolute
        if output.features is not None:
            feature = feature_loss(*output.features)
            total = total + own.feature_weight * feature
    if output.prediction is not None and output.target is not None:
        diffusion = diffusion_loss(output.prediction, output.target, weights)
        total = total + config.diffusion_weight * diffusion
    if gated:
        sparsity = sparsity_loss(gate.mask)
        total = total + config.sparsity_weight * sparsity
    if gate.num_open is not None and gate.multiplier is not None:
        channels = gate.mask.shape[1]
        budget = budget_loss(gate.num_open, gate.target, gate.multiplier, channels)
        total = total + budget
    return Losses(total, reconstruction, absolute, feature, kl, diffusion, sparsity, budget)


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error per value, images in [-1, 1]."""
    return 10 * math.log10(4.0 / mean_squared_error)
