"""What one rotation to a given number of directions needs, and nothing beside it."""

import torch
from torch import Tensor

from pelap.analysis.analysis_record import (
    Agreement,
    Analysis,
    AnalysisSettings,
    RandomCurve,
    RotationCurve,
)
from pelap.analysis.autoencoder_calls import CallCounter, counted_calls
from pelap.analysis.cost_record import AnalysisCost
from pelap.analysis.decoding import DecoderMetric, measure_maps
from pelap.analysis.gathering import CURVES, METRIC, MOMENTS
from pelap.analysis.picture_parts import split_pictures
from pelap.analysis.statistics import measure_statistics, report_moments
from pelap.data.pictures import Pictures
from pelap.measure.encoded_batches import Batches, frozen
from pelap.measure.noise_levels import to_db
from pelap.method.latent_map import Rotation, find_rotation, keep_channels
from pelap.method.system import LatentDiffusion


def analyze_rotation(
    system: LatentDiffusion,
    pictures: Pictures,
    settings: AnalysisSettings,
    name: str,
    kind: Rotation,
    num_kept: int,
) -> Analysis:
    """Measure moments, for "decoder" its metric, and the PSNR of this rotation alone.

    Returns:
        An analysis without criteria, with one point of one rotation's curve; `decoder_metric`
        (C, C) is zero where it was not measured.

    Raises:
        ValueError: If there are no pictures.
        DataError: If a picture cannot be read.
    """
    parts = split_pictures(pictures, settings)
    counter = CallCounter(parts.size**2)
    with frozen(system), counted_calls(system, counter):
        counter.stage = MOMENTS
        moments = measure_statistics(system, parts.whole_pass).moments
        num_channels = len(moments.mean)
        metric = torch.zeros(num_channels, num_channels, dtype=torch.float64)
        if kind == "decoder":
            counter.stage = METRIC
            metric = _measure_metric(system, parts.whole_pass, num_channels, settings)
        rotation = find_rotation(kind, moments, metric, num_kept)
        whole = keep_channels(range(num_channels), moments, settings.fill)
        rotated = keep_channels(range(num_kept), moments, settings.fill, rotation)
        counter.stage = CURVES
        before, after = map(
            to_db, measure_maps(system, parts.curve, [whole, rotated], "Measuring pictures")
        )
    reported, eigenvalues = report_moments(moments)
    return Analysis(
        name=name,
        num_channels=num_channels,
        num_pictures=parts.whole_pass.num_pictures,
        num_search=0,
        num_curve=parts.curve.num_pictures,
        psnr_db=before,
        pass_psnr_db=before,
        fill=settings.fill,
        timestep_bands=[],
        channels=[],
        moments=reported,
        eigenvalues=eigenvalues,
        decoder_metric=metric.tolist(),
        criteria=[],
        random=RandomCurve([], [], []),
        rotations=[RotationCurve(kind, [num_kept], [after])],
        agreement=Agreement([], []),
        class_names=list(pictures.class_names),
        seed=settings.seed,
        notes=parts.notes,
        effort=settings.effort,
        cost=AnalysisCost(parts.num_pictures, None, counter.reduce()),
    )


def _measure_metric(
    system: LatentDiffusion, batches: Batches, num_channels: int, settings: AnalysisSettings
) -> Tensor:
    """What the decoder makes of each direction, (C, C) in float64."""
    metric = DecoderMetric(num_channels, settings.num_probes, settings.seed)
    for batch in batches.of_this_process(system, "Measuring the decoder"):
        metric.add(system, batch)
    return metric.reduce()
