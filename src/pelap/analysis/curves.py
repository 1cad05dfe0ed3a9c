"""PSNR against the number of kept channels: for each ranking, at random, and rotated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pelap.analysis.analysis_record import AnalysisSettings, CurvePoint, RandomCurve, RotationCurve
from pelap.analysis.criteria import Evidence, Order
from pelap.analysis.decoding import measure_maps
from pelap.core.seeding import generator
from pelap.measure.encoded_batches import Batches
from pelap.measure.noise_levels import to_db
from pelap.method.latent_map import (
    LatentMap,
    LatentMoments,
    Rotation,
    find_rotation,
    keep_channels,
)
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


Key = tuple[int, ...] | tuple[str, int]
"""A set of kept channels, rising; or a rotation's kind and how many directions it keeps."""


@dataclass(frozen=True)
class CurveSets:
    """Every map that some curve needs, once; a curve is its keys by rising number kept."""

    counts: list[int]
    """Numbers of kept channels, rising; the last is all."""
    orders: dict[str, list[int]]
    """Channels by criterion, best first."""
    maps: dict[Key, LatentMap]
    rankings: dict[str, list[Key]]
    shuffled: list[list[Key]]
    """Of the random rankings."""
    rotations: dict[str, list[Key]]
    moments: LatentMoments
    metric: Tensor

    @property
    def everything(self) -> Key:
        """The set of all channels."""
        return tuple(range(len(self.metric)))


def gather_sets(
    orders: Mapping[str, Order], evidence: Evidence, settings: AnalysisSettings
) -> CurveSets:
    """The maps of all curves.

    Args:
        orders: Of the channels, by criterion.
        evidence: Gives the moments of the latents and the decoder's metric.
        settings: How many random rankings to add, and what stands in for removed channels.
    """
    moments, fill = evidence.statistics.moments, settings.fill
    num_channels = len(moments.mean)
    counts = counts_to_measure(num_channels)
    shuffled = [
        torch.randperm(num_channels, generator=generator(settings.seed, "bootstrap", draw)).tolist()
        for draw in range(settings.num_random)
    ]
    rankings = {name: order.ranking for name, order in orders.items()}
    maps: dict[Key, LatentMap] = {}

    def keys_of(ranking: Sequence[int]) -> list[Key]:
        keys: list[Key] = [tuple(sorted(ranking[:count])) for count in counts]
        for key, count in zip(keys, counts, strict=True):
            if key not in maps:
                maps[key] = keep_channels(sorted(ranking[:count]), moments, fill)
        return keys

    by_name = {name: keys_of(ranking) for name, ranking in rankings.items()}
    at_random = [keys_of(ranking) for ranking in shuffled]
    rotations: dict[str, list[Key]] = {}
    for kind in MEASURED_ROTATIONS:
        rotations[kind] = [(kind, count) for count in counts]
        for count in counts:
            rotation = find_rotation(kind, moments, evidence.metric, count)
            maps[kind, count] = keep_channels(range(count), moments, fill, rotation)
    return CurveSets(
        counts, rankings, maps, by_name, at_random, rotations, moments, evidence.metric
    )


def measure_curves(system: LatentDiffusion, batches: Batches, sets: CurveSets) -> Curves:
    """Decode the pictures through every map that some curve needs, through each once.

    Args:
        system: The model.
        batches: Pictures that chose neither rankings nor moments, if there are any.
        sets: What the curves need.
    """
    errors = measure_maps(system, batches, list(sets.maps.values()), "Measuring curves").tolist()
    by_key = dict(zip(sets.maps, errors, strict=True))
    places = range(len(sets.counts))
    return join_curves(sets, {(key, place): by_key[key] for key in by_key for place in places})


def join_curves(sets: CurveSets, errors: Mapping[tuple[Key, int], float]) -> Curves:
    """Curves from the squared error of every set at its place."""

    def psnr_db(keys: Sequence[Key]) -> list[float]:
        return [to_db(errors[key, place]) for place, key in enumerate(keys)]

    counts = sets.counts
    draws = [list(drawn) for drawn in zip(*map(psnr_db, sets.shuffled), strict=True)]
    return Curves(
        to_db(errors[sets.everything, len(counts) - 1]),
        {
            name: [
                CurvePoint(count, sets.orders[name][:count], value)
                for count, value in zip(counts, psnr_db(keys), strict=True)
            ]
            for name, keys in sets.rankings.items()
        },
        RandomCurve(counts, draws, [sum(drawn) / len(drawn) for drawn in draws]),
        [RotationCurve(kind, counts, psnr_db(keys)) for kind, keys in sets.rotations.items()],
    )
