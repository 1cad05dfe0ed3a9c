"""First pass of an analysis: what the encoder makes of the pictures. No decoding."""

from dataclasses import dataclass

import torch
from torch import Tensor

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


def measure_statistics(system: LatentDiffusion, batches: Batches) -> Statistics:
    """One pass of the encoder, in constant memory.

    Sums are of differences from the first batch's mean, so that nothing cancels.
    """
    first = batches.encode(system, 0)
    sums = _Sums(_wide(first.mean).mean(dim=0))
    for batch in batches.of_this_process(system, "Encoding pictures"):
        sums.add(batch)
    return sums.statistics()


class _Sums:
    """Sums of differences from a first guess of the mean, (C, h, w)."""

    def __init__(self, unit_shift: Tensor):
        self.unit_shift = unit_shift
        self.shift = unit_shift.flatten(1).mean(dim=1)  # (C,)
        num_channels = len(self.shift)
        self.num_pictures = torch.zeros((), dtype=torch.float64)
        self.total = torch.zeros(num_channels, dtype=torch.float64)
        self.products = torch.zeros(num_channels, num_channels, dtype=torch.float64)
        self.posterior_variance = torch.zeros_like(self.total)
        self.kl = torch.zeros_like(self.total)
        self.unit_total = torch.zeros_like(unit_shift)
        self.unit_squares = torch.zeros_like(unit_shift)

    def add(self, batch: EncodedBatch) -> None:
        shift = by_channel(self.shift, batch.latents)  # (C, 1, …)
        latents = _wide(batch.latents) - shift  # (B, C, …)
        mean, logvar = _wide(batch.mean), _wide(batch.logvar)
        flat = _by_channel(latents)  # (C, B·positions)
        self.num_pictures += len(mean)
        self.total += flat.sum(dim=1)
        self.products += flat @ flat.T
        self.posterior_variance += _by_channel(logvar.exp()).sum(dim=1)
        self.kl += -0.5 * _by_channel(1 + logvar - mean.square() - logvar.exp()).sum(dim=1)
        away = mean - self.unit_shift
        self.unit_total += away.sum(dim=0)
        self.unit_squares += away.square().sum(dim=0)

    def statistics(self) -> Statistics:
        num_pictures = sum_over_processes(self.num_pictures)
        count = num_pictures * self.unit_shift[0].numel()
        away = sum_over_processes(self.total) / count  # (C,)
        covariance = sum_over_processes(self.products) / count - torch.outer(away, away)
        unit_away = sum_over_processes(self.unit_total) / num_pictures  # (C, h, w)
        unit_variance = sum_over_processes(self.unit_squares) / num_pictures - unit_away.square()
        posterior_variance = sum_over_processes(self.posterior_variance) / count
        return Statistics(
            LatentMoments(self.shift + away, (covariance + covariance.T) / 2, posterior_variance),
            sum_over_processes(self.kl) / num_pictures,
            unit_variance.clamp(min=0).flatten(1).mean(dim=1),
        )


def _by_channel(values: Tensor) -> Tensor:
    """(B, C, …) as (C, B·positions)."""
    return values.transpose(0, 1).flatten(1)


def _wide(values: Tensor) -> Tensor:
    return values.double().cpu()
