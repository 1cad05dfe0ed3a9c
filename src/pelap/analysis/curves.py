"""PSNR against the number of kept channels: for each ranking, at random, and rotated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from pelap.analysis.analysis_record import AnalysisSettings, CurvePoint, RandomCurve, RotationCurve
from pelap.analysis.criteria import Evidence, Order
from pelap.analysis.decoding import measure_maps
from pelap.core.seeding import generator
from pelap.measure.encoded_batches import Batches
from pelap.measure.noise_levels import to_db
from pelap.method.latent_map import LatentMap, Rotation, find_rotation, keep_channels
from pelap.method.system import LatentDiffusion

MAX_POINTS = 16
"""Numbers of kept channels at which a curve is measured."""
MEASURED_ROTATIONS: tuple[Rotation, ...] = ("pca", "decoder")


@dataclass(frozen=True)
class Curves:
    """All curves, measured on the same pictures."""

    psnr_db: float
    """With all channels, of the encoder's mean."""
    by_ranking: dict[str, list[CurvePoint]]
    random: RandomCurve
    rotations: list[RotationCurve]


def counts_to_measure(num_channels: int) -> list[int]:
    """Numbers of kept channels: all, or at most 16, quarters among them, with small gaps."""
    if num_channels <= MAX_POINTS:
        return list(range(1, num_channels + 1))
    counts = {1, *(num_channels * quarter // 4 for quarter in range(1, 5))}
    while len(counts) < MAX_POINTS:
        known = sorted(counts)
        gap, low = max((high - low, -low) for low, high in pairwise(known))
        counts.add(-low + gap // 2)
    return sorted(counts)


def measure_curves(
    system: LatentDiffusion,
    batches: Batches,
    orders: Mapping[str, Order],
    evidence: Evidence,
    settings: AnalysisSettings,
) -> Curves:
    """Decode the pictures through every map that some curve needs, through each once.

    Args:
        system: The model.
        batches: Pictures that chose neither rankings nor moments, if there are any.
        orders: Of the channels, by criterion.
        evidence: Gives the moments of the latents and the decoder's metric.
        settings: How many random rankings to add, and what stands in for removed channels.
    """
    moments, fill = evidence.statistics.moments, settings.fill
    num_channels = len(moments.mean)
    counts = counts_to_measure(num_channels)
    shuffled = [
        torch.randperm(num_channels, generator=generator(batches.seed, "bootstrap", draw)).tolist()
        for draw in range(settings.num_random)
    ]
    rankings = {name: order.ranking for name, order in orders.items()}
    maps: dict[tuple[int, ...] | tuple[str, int], LatentMap] = {}
    for ranking in (*rankings.values(), *shuffled):
        for count in counts:
            kept = tuple(sorted(ranking[:count]))
            if kept not in maps:
                maps[kept] = keep_channels(kept, moments, fill)
    for kind in MEASURED_ROTATIONS:
        for count in counts:
            rotation = find_rotation(kind, moments, evidence.metric, count)
            maps[kind, count] = keep_channels(range(count), moments, fill, rotation)
    errors = measure_maps(system, batches, list(maps.values()), "Measuring curves")
    psnr_db = {key: to_db(error) for key, error in zip(maps, errors, strict=True)}

    def of(ranking: Sequence[int], count: int) -> float:
        return psnr_db[tuple(sorted(ranking[:count]))]

    draws = [[of(ranking, count) for ranking in shuffled] for count in counts]
    return Curves(
        of(range(num_channels), num_channels),
        {
            name: [CurvePoint(count, ranking[:count], of(ranking, count)) for count in counts]
            for name, ranking in rankings.items()
        },
        RandomCurve(counts, draws, [sum(drawn) / len(drawn) for drawn in draws]),
        [
            RotationCurve(kind, counts, [psnr_db[kind, count] for count in counts])
            for kind in MEASURED_ROTATIONS
        ],
    )
