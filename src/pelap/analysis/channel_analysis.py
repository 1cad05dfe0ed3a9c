"""Which latent channels an autoencoder, with its denoiser, uses: measured, ranked and tried out.

    pictures ─┬─ of the pass ──> statistics.py: moments, KL, activity        (encoder)
              │                  decoding.py:   leave one out, metric M      (decoder)
              │                  taylor.py:     Taylor scores                (denoiser)
              │                  elimination.py, learned.py: the two searches
              │                        └──> criteria.py: rankings
              └─ held apart ───> curves.py: PSNR by number of kept channels

Everything is measured on the latents that the denoiser sees. Reconstructions are decoded from the
encoder's mean. Effort `exact` decodes all that these need; the others decode on few pictures, or
crops, what gathering.py and sparse_curves.py leave of it. Several processes share the batches and
all return the same.
"""

from dataclasses import replace

import torch

from pelap.analysis.analysis_record import (
    Agreement,
    Analysis,
    AnalysisSettings,
    ChannelAnalysis,
    CriterionResult,
)
from pelap.analysis.autoencoder_calls import CallCounter, counted_calls
from pelap.analysis.cost_record import AnalysisCost
from pelap.analysis.criteria import CRITERIA, Evidence, Order, agree, rank_all
from pelap.analysis.curves import Curves
from pelap.analysis.decoding import LeaveOneOut
from pelap.analysis.effort_plan import plan_cost
from pelap.analysis.elimination import unexplained_variance
from pelap.analysis.gathering import CROPS, plan_measuring
from pelap.analysis.picture_parts import split_pictures
from pelap.analysis.statistics import ACTIVE_VARIANCE, report_moments
from pelap.data.pictures import Pictures
from pelap.measure.encoded_batches import frozen
from pelap.measure.noise_levels import to_db
from pelap.method.system import LatentDiffusion
from pelap.models.conditions import Conditions

NO_VARIANCE = 1e-12
"""Share of the largest variance that is nothing but rounding."""
CLEARLY_WORSE_DB = 1e-3
"""Less is no difference between a criterion and chance."""


def analyze(
    system: LatentDiffusion,
    pictures: Pictures,
    settings: AnalysisSettings,
    name: str,
    conditions: Conditions | None = None,
) -> Analysis:
    """Measure every channel, rank the channels by every criterion, and try the rankings out.

    Memory does not depend on the number of pictures. All random numbers are functions of the seed
    and the batch's number, so the result hardly depends on the number of processes.

    Args:
        system: The model on the device where it is to run; put into evaluation mode. Its denoiser
            may be None; its importance predictor and gate are left aside.
        pictures: Of the size that the autoencoder takes.
        settings: How much is measured.
        name: Of the model.
        conditions: What the denoiser is told of each picture.

    Raises:
        ValueError: If there are no pictures.
        DataError: If a picture cannot be read.
    """
    parts = split_pictures(pictures, settings, conditions)
    counter = CallCounter(parts.size**2)
    with frozen(system), counted_calls(system, counter):
        measuring = plan_measuring(system, parts, settings, counter)
        evidence = measuring.gather()
        orders, missing = rank_all(evidence)
        curves = measuring.draw_curves(orders, evidence)
    moments, eigenvalues = report_moments(evidence.statistics.moments)
    return Analysis(
        name=name,
        num_channels=len(moments.mean),
        num_pictures=parts.whole_pass.num_pictures,
        num_search=parts.search.num_pictures,
        num_curve=parts.curve.num_pictures,
        psnr_db=curves.psnr_db,
        pass_psnr_db=to_db(evidence.left_out.errors()[0]),
        fill=settings.fill,
        timestep_bands=[list(band) for band in evidence.bands],
        channels=_describe_channels(evidence),
        moments=moments,
        eigenvalues=eigenvalues,
        decoder_metric=evidence.metric.tolist(),
        criteria=[_describe_criterion(name, order, curves) for name, order in orders.items()],
        random=curves.random,
        rotations=curves.rotations,
        agreement=Agreement(list(orders), agree(list(orders.values()))),
        class_names=list(parts.curve.pictures.class_names),
        seed=settings.seed,
        notes=[*parts.notes, *missing, *_worse_than_random(curves)],
        effort=settings.effort,
        cost=AnalysisCost(parts.num_pictures, measuring.crop, counter.reduce()),
    )


def plan_analysis(
    system: LatentDiffusion, pictures: Pictures, settings: AnalysisSettings
) -> AnalysisCost:
    """Calls of the autoencoder that `analyze` would take at most; one picture is encoded.

    Raises:
        ValueError: If there are no pictures.
        DataError: If a picture cannot be read.
    """
    parts = split_pictures(pictures, settings)
    counter = CallCounter(parts.size**2)
    with frozen(system), counted_calls(system, counter):
        measuring = plan_measuring(system, parts, settings, counter)
    cost = plan_cost(measuring, system.autoencoder.config["latent_channels"])
    probes = [stage for stage in counter.reduce() if stage.stage == CROPS]
    return replace(cost, stages=[*probes, *cost.stages])


def _describe_criterion(name: str, order: Order, curves: Curves) -> CriterionResult:
    values = None if order.values is None else order.values.tolist()
    curve = curves.by_ranking[name]
    return CriterionResult(name, CRITERIA[name].description, order.ranking, values, curve)


def _describe_channels(evidence: Evidence) -> list[ChannelAnalysis]:
    statistics, moments = evidence.statistics, evidence.statistics.moments
    variance, sensitivity = evidence.covariance.diagonal(), evidence.metric.diagonal()
    unexplained = unexplained_variance(evidence.covariance)
    r2 = torch.where(
        variance > NO_VARIANCE * variance.max(), 1 - unexplained / variance, 1.0
    ).clamp(0, 1)
    whole, by_mean, by_others = evidence.left_out.errors()
    by_class = _fall_by_class(evidence.left_out)
    taylor, scores = evidence.taylor, evidence.scores
    return [
        ChannelAnalysis(
            channel=c,
            mean=float(moments.mean[c]),
            std=float(variance[c].clamp(min=0).sqrt()),
            energy=float(variance[c]),
            kl=float(statistics.kl[c]),
            active=float(statistics.activity[c]) > ACTIVE_VARIANCE,
            r2=float(r2[c]),
            leave_one_out_db=to_db(whole) - to_db(by_mean[c]),
            leave_one_out_linear_db=to_db(whole) - to_db(by_others[c]),
            decoder_sensitivity=float(sensitivity[c]),
            expected_loss=float(sensitivity[c] * variance[c]),
            taylor=None if taylor is None else taylor[:, c].tolist(),
            score=None if scores is None else float(scores[c]),
            leave_one_out_db_by_class=by_class[c],
        )
        for c in range(len(variance))
    ]


def _fall_by_class(left_out: LeaveOneOut) -> list[list[float | None] | None]:
    """Fall of the PSNR in each class without each channel; None where there are no pictures."""
    if len(left_out.counts) == 1:
        return [None] * left_out.num_channels
    rows = []
    for row, count in enumerate(left_out.counts):
        whole, by_mean, _ = left_out.errors(row)
        rows.append([to_db(whole) - to_db(error) if count else None for error in by_mean])
    return [list(falls) for falls in zip(*rows, strict=True)]


def _worse_than_random(curves: Curves) -> list[str]:
    """A sentence for each criterion that random choices beat somewhere."""
    notes = []
    for name, curve in curves.by_ranking.items():
        worse = [
            str(point.num_kept)
            for point, mean_db in zip(curve, curves.random.mean_db, strict=True)
            if point.psnr_db < mean_db - CLEARLY_WORSE_DB
        ]
        if worse:
            notes.append(
                f"Criterion {name} is worse than the mean of random choices at "
                f"{', '.join(worse)} kept channels."
            )
    return notes
