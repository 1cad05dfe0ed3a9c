"""First pass of an analysis: what the encoder makes of the pictures. No decoding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.analysis.analysis_record import MomentsResult
from pelap.core.errors import ModelError
from pelap.core.processes import sum_over_processes
from pelap.families.latent_axes import by_channel
from pelap.measure.encoded_batches import Batches, EncodedBatch
from pelap.method.latent_map import LatentMoments
from pelap.method.system import LatentDiffusion

ACTIVE_VARIANCE = 0.01
"""Least variance of the encoder's mean in an active unit (Burda et al., arXiv 1509.00519)."""


@dataclass(frozen=True)
class Statistics:
    """What the encoder makes of the pictures, in float64 on the CPU."""

    moments: LatentMoments
    kl: Tensor
    """Divergence from the standard normal in nats a picture, (C,)."""
    activity: Tensor
    """Variance of the encoder's mean between pictures, mean over positions, (C,)."""


def report_moments(moments: LatentMoments) -> tuple[MomentsResult, list[float]]:
    """The moments as an analysis holds them, and the eigenvalues of the covariance, falling."""
    result = MomentsResult(
        moments.mean.tolist(), moments.covariance.tolist(), moments.posterior_variance.tolist()
    )
    return result, torch.linalg.eigvalsh(moments.covariance).flip(0).tolist()


def measure_statistics(system: LatentDiffusion, batches: Batches) -> Statistics:
    """One pass of the encoder, in constant memory.

    Sums are of differences from the first batch's mean, so that nothing cancels.

    Raises:
        ModelError: If they are not finite.
    """
    first = batches.encode(system, 0)
    unit_shift = _wide(first.mean).mean(dim=0)  # (C, …)
    totals = [torch.zeros_like(part) for part in _sums(first, unit_shift)]
    for batch in batches.of_this_process(system, "Encoding pictures"):
        for total, part in zip(totals, _sums(batch, unit_shift), strict=True):
            total += part
    sizes, total, products, variances, kl, unit_total, squares = map(sum_over_processes, totals)
    num_pictures = float(sizes)
    count = num_pictures * unit_shift[0].numel()
    away = total / count  # (C,)
    covariance = products / count - torch.outer(away, away)
    unit_variance = squares / num_pictures - (unit_total / num_pictures).square()  # (C, …)
    mean = unit_shift.flatten(1).mean(dim=1) + away
    check_finite("encoder", covariance, variances, kl)
    return Statistics(
        LatentMoments(mean, (covariance + covariance.T) / 2, variances / count),
        kl / num_pictures,
        unit_variance.clamp(min=0).flatten(1).mean(dim=1),
    )


def check_finite(part: str, *found: Tensor) -> None:
    """Refuse to rank by numbers that are not finite.

    Raises:
        ModelError: Names the part of the model that they come from.
    """
    if not all(torch.isfinite(values).all() for values in found):
        raise ModelError(
            f"What the {part} makes of these pictures is not finite: its weights may be damaged."
        )


def _sums(batch: EncodedBatch, unit_shift: Tensor) -> tuple[Tensor, ...]:
    """Number of pictures; sum of the latents' differences from the shift, and of their products;
    of the encoder's variance; of the divergence; of the mean's differences from the shift at its
    position, and of their squares."""
    mean, logvar = _wide(batch.mean), _wide(batch.logvar)  # (B, C, …)
    shift = by_channel(unit_shift.flatten(1).mean(dim=1), mean)  # (C, 1, …)
    flat = _by_channel(_wide(batch.latents) - shift)  # (C, B·positions)
    away = mean - unit_shift
    return (
        torch.tensor(len(mean), dtype=torch.float64),
        flat.sum(dim=1),
        flat @ flat.T,
        _by_channel(logvar.exp()).sum(dim=1),
        -0.5 * _by_channel(1 + logvar - mean.square() - logvar.exp()).sum(dim=1),
        away.sum(dim=0),
        away.square().sum(dim=0),
    )


def _by_channel(values: Tensor) -> Tensor:
    """(B, C, …) as (C, B·positions)."""
    return values.transpose(0, 1).flatten(1)


def _wide(values: Tensor) -> Tensor:
    return values.double().cpu()
