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


def eliminate_sparingly(
    first_rises: Tensor,
    measure: Callable[[Sequence[int]], float],
    predict: Callable[[Sequence[Sequence[int]]], Tensor],
    max_tries: int,
    label: str | None = None,
) -> list[int]:
    """Ranking by measured costs, of which few are measured.

    A channel's rise hardly changes from step to step, so the last one measured is a good guess
    (Minoux 1978, lazy greedy); what the removals since have changed of it is predicted. A step
    measures the channel of the least guess until a measured one is the least.

    Args:
        first_rises: What each channel's removal alone costs, (C,).
        measure: From a list of kept channels to its cost.
        predict: From candidate lists of one length to their predicted costs (S,).
        max_tries: Measured in a step at most.
        label: Of a progress bar; None for none.

    Returns:
        Channels, the one removed last first. Of equally cheap ones the last is removed.
    """
    kept, removed = list(range(len(first_rises))), []
    rises, now = first_rises.clone(), measure(kept)
    predicted_then = _predicted_rises(kept, predict)
    scale = float((rises.sum() / predicted_then.sum().clamp(min=1e-30)).clamp(min=0))
    for _ in track(range(len(kept) - 1), label):
        predicted = torch.zeros_like(rises)
        predicted[kept] = _predicted_rises(kept, predict)
        guesses = rises + scale * (predicted - predicted_then)
        tried: dict[int, float] = {}
        while len(tried) < max_tries:
            next_one = _cheapest(kept, [float(guesses[c]) for c in kept])
            if next_one in tried:
                break
            tried[next_one] = measure([c for c in kept if c != next_one])
            guesses[next_one] = rises[next_one] = tried[next_one] - now
            predicted_then[next_one] = predicted[next_one]
        gone = _cheapest(sorted(tried), [tried[c] for c in sorted(tried)])
        now = tried[gone]
        kept.remove(gone)
        removed.append(gone)
    return kept + removed[::-1]


def _predicted_rises(
    kept: Sequence[int], predict: Callable[[Sequence[Sequence[int]]], Tensor]
) -> Tensor:
    """Of removing each of the kept channels, (K,)."""
    if len(kept) < 2:
        return torch.zeros(len(kept), dtype=torch.float64)
    without = predict([[c for c in kept if c != gone] for gone in kept])
    return without - predict([kept])


def _cheapest(channels: Sequence[int], costs: Sequence[float]) -> int:
    """The channel of the least cost; of equal ones the last."""
    values = torch.tensor(costs, dtype=torch.float64)
    ties = values <= values.min() + TIE * values.abs().max()
    return channels[int(ties.nonzero()[-1])]


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
