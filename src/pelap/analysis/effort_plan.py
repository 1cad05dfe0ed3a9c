"""How many calls of the autoencoder an analysis takes at most, before any of them."""

import math

from pelap.analysis.cost_record import AnalysisCost, StageCost
from pelap.analysis.criteria import CRITERIA
from pelap.analysis.curves import MEASURED_ROTATIONS, counts_to_measure
from pelap.analysis.gathering import (
    CURVES,
    CURVES_FEW,
    LEARNED,
    LEFT_OUT,
    METRIC,
    MOMENTS,
    SEARCH,
    Measuring,
)
from pelap.analysis.sparse_curves import measured_places
from pelap.analysis.tiers import Sparing


def plan_cost(measuring: Measuring, num_channels: int) -> AnalysisCost:
    """Calls of every stage, at most; a single process.

    Args:
        measuring: Model, pictures and what is spared.
        num_channels: C.
    """
    parts, settings, sparing = measuring.parts, measuring.settings, measuring.sparing
    pictures, steps = parts.whole_pass.num_pictures, settings.predictor_steps
    batch = min(pictures, parts.whole_pass.batch_size)
    without_each = 2 * num_channels + 1
    stages = [
        StageCost(MOMENTS, pictures + batch, 0, 0),
        StageCost(METRIC, pictures, pictures, pictures * settings.num_probes),
    ]
    if sparing is None:
        tried = num_channels * (num_channels + 1) // 2 - 1
        stages += [
            StageCost(LEFT_OUT, 0, pictures * without_each, 0),
            StageCost(
                SEARCH,
                parts.search.num_pictures * (num_channels - 1),
                parts.search.num_pictures * tried,
                0,
            ),
        ]
    else:
        left_out = measuring.num_few(parts.whole_pass, sparing.left_out)
        search = measuring.num_few(parts.search, sparing.search)
        tried = 1 + (num_channels - 1) * sparing.tries
        stages += [
            StageCost(LEFT_OUT, left_out, left_out * without_each, 0),
            StageCost(SEARCH, search, search * tried, 0),
        ]
    if steps:
        stages.append(StageCost(LEARNED, steps * batch, steps * batch, steps * batch))
    stages += _plan_curves(measuring, num_channels, sparing)
    return AnalysisCost(parts.num_pictures, measuring.crop, stages)


def _plan_curves(
    measuring: Measuring, num_channels: int, sparing: Sparing | None
) -> list[StageCost]:
    """Of the curves, if no two rankings had a set in common."""
    settings, curve = measuring.settings, measuring.parts.curve
    missing = (measuring.system.denoiser is None) + (not settings.predictor_steps)
    criteria, rotations = len(CRITERIA) - missing, len(MEASURED_ROTATIONS)
    counts = counts_to_measure(num_channels)
    points = len(counts) - 1  # besides all channels
    if sparing is None:
        sets = 1 + points * (criteria + settings.num_random) + len(counts) * rotations
        return [StageCost(CURVES, curve.num_pictures, curve.num_pictures * sets, 0)]
    few = measuring.num_few(curve, sparing.curve)
    places = len(measured_places(len(counts), sparing.gap)) if points else 0
    sets = 1 + places * (criteria + settings.num_random + rotations)
    sets += criteria * sparing.refined + points * sparing.shortlist
    stages = [StageCost(CURVES_FEW, few, few * sets, 0)]
    if measuring.crop is not None or few < curve.num_pictures:
        whole = curve.num_pictures * (1 + math.ceil(points / sparing.whole_gap))
        stages.append(StageCost(CURVES, curve.num_pictures, whole, 0))
    return stages
