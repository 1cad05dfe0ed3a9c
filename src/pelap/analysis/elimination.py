"""Greedy backward elimination: remove the channel that costs least, until one is left."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pelap.analysis.decoding import measure_maps
from pelap.core.progress import track
from pelap.measure.encoded_batches import Batches
from pelap.method.latent_map import Fill, LatentMoments, keep_channels
from pelap.method.system import LatentDiffusion

TIE = 1e-9
"""Share of the largest cost that does not tell two apart: sums over processes differ by less."""


def eliminate(
    num_channels: int,
    costs: Callable[[Sequence[Sequence[int]]], Tensor],
    label: str | None = None,
) -> list[int]:
    """Rank channels by removing one after the other.

    Args:
        num_channels: C.
        costs: From candidate lists of kept channels, all of one length, to their costs (S,).
        label: Of a progress bar; None for none.

    Returns:
        Channels, the one removed last first. Of equally cheap ones the last is removed.
    """
    kept, removed = list(range(num_channels)), []
    for _ in track(range(num_channels - 1), label):
        without = costs([[c for c in kept if c != gone] for gone in kept])
        cheapest = without <= without.min() + TIE * without.abs().max()
        removed.append(kept.pop(int(cheapest.nonzero()[-1])))
    return kept + removed[::-1]


def eliminate_by_decoding(
    system: LatentDiffusion, batches: Batches, moments: LatentMoments, fill: Fill
) -> list[int]:
    """Ranking by the measured squared error; about C²/2 decodes of the pictures."""

    def costs(candidates: Sequence[Sequence[int]]) -> Tensor:
        maps = [keep_channels(kept, moments, fill) for kept in candidates]
        return measure_maps(system, batches, maps)

    return eliminate(len(moments.mean), costs, "Eliminating channels")


def eliminate_by_moments(metric: Tensor, covariance: Tensor) -> list[int]:
    """Ranking by `conditional_costs`; no decoding.

    Args:
        metric: M, (C, C).
        covariance: Σ, (C, C).
    """
    return eliminate(
        len(covariance), lambda candidates: conditional_costs(metric, covariance, candidates)
    )


def conditional_costs(
    metric: Tensor, covariance: Tensor, candidates: Sequence[Sequence[int]]
) -> Tensor:
    """tr(M · Cov(latents | kept)) for each candidate list of kept channels, (S,). Ours.

    What decoding costs to second order when removed channels are predicted linearly from the kept.
    """
    return (metric * residual_covariance(covariance, candidates)).sum(dim=(1, 2))


def residual_covariance(covariance: Tensor, candidates: Sequence[Sequence[int]]) -> Tensor:
    """Covariance of the latents that the kept channels do not explain linearly, (S, C, C).

    Σ − Σ_·K Σ_KK⁺ Σ_K·: zero in the kept channels' rows, a Schur complement in the others'.

    Args:
        covariance: Σ, (C, C).
        candidates: S lists of kept channels, all of one length.
    """
    kept = torch.tensor(list(map(list, candidates)), dtype=torch.long)  # (S, K)
    if kept.shape[1] == 0:
        return covariance.expand(len(kept), -1, -1)
    across = covariance[kept]  # (S, K, C)
    among = across.gather(2, kept[:, None, :].expand(-1, kept.shape[1], -1))  # (S, K, K)
    inverse = torch.linalg.pinv(among, hermitian=True, rtol=1e-10)
    return covariance - across.transpose(1, 2) @ inverse @ across


def unexplained_variance(covariance: Tensor) -> Tensor:
    """Variance of each channel that the others do not explain linearly, (C,)."""
    channels = range(len(covariance))
    others = [[c for c in channels if c != predicted] for predicted in channels]
    left = residual_covariance(covariance, others).diagonal(dim1=1, dim2=2)  # (C, C)
    return left.diagonal().clamp(min=0)
