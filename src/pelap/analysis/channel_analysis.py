"""Which latent channels an autoencoder, with its denoiser, uses: measured, ranked and tried out.

    pictures ─┬─ of the pass ──> statistics.py: moments, KL, activity        (encoder)
              │                  decoding.py:   leave one out, metric M      (decoder)
              │                  taylor.py:     Taylor scores                (denoiser)
              │                  elimination.py, learned.py: the two searches
              │                        └──> criteria.py: rankings
              └─ held apart ───> curves.py: PSNR by number of kept channels

Everything is measured on the latents that the denoiser sees. Reconstructions are decoded from the
encoder's mean. Several processes share the batches and all return the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.analysis.analysis_record import (
    Agreement,
    Analysis,
    AnalysisSettings,
    ChannelAnalysis,
    CriterionResult,
    MomentsResult,
)
from pelap.analysis.criteria import CRITERIA, Evidence, agree, rank_all
from pelap.analysis.curves import Curves, measure_curves
from pelap.analysis.decoding import DecoderMetric, LeaveOneOut
from pelap.analysis.elimination import eliminate_by_decoding, unexplained_variance
from pelap.analysis.learned import learn_scores
from pelap.analysis.statistics import ACTIVE_VARIANCE, measure_statistics
from pelap.analysis.taylor import TaylorScores
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures
from pelap.measure.encoded_batches import Batches, frozen
from pelap.measure.noise_levels import to_db
from pelap.method.system import LatentDiffusion

MAX_CLASSES = 100
"""With more, classes are not told apart: each would have few pictures."""
NO_VARIANCE = 1e-12
"""Share of the largest variance that is nothing but rounding."""
CLEARLY_WORSE_DB = 1e-3
"""Less is no difference between a criterion and chance."""


def analyze(
    system: LatentDiffusion, pictures: Pictures, settings: AnalysisSettings, name: str
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

    Raises:
        ValueError: If there are no pictures.
        DataError: If a picture cannot be read.
    """
    parts = split_pictures(pictures, settings)
    with frozen(system):
        evidence = _gather(system, parts, settings)
        orders, missing = rank_all(evidence)
        curves = measure_curves(system, parts.curve, orders, evidence, settings)
    moments = evidence.statistics.moments
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
        moments=MomentsResult(
            moments.mean.tolist(),
            moments.covariance.tolist(),
            moments.posterior_variance.tolist(),
        ),
        eigenvalues=torch.linalg.eigvalsh(moments.covariance).flip(0).tolist(),
        decoder_metric=evidence.metric.tolist(),
        criteria=[
            CriterionResult(
                name,
                CRITERIA[name].description,
                order.ranking,
                None if order.values is None else order.values.tolist(),
                curves.by_ranking[name],
            )
            for name, order in orders.items()
        ],
        random=curves.random,
        rotations=curves.rotations,
        agreement=Agreement(list(orders), agree(list(orders.values()))),
        class_names=list(parts.curve.pictures.class_names),
        seed=settings.seed,
        notes=[*parts.notes, *missing, *_worse_than_random(curves)],
    )


@dataclass(frozen=True)
class AnalysisParts:
    """Pictures of the pass, of the search and of the curves."""

    whole_pass: Batches
    search: Batches
    curve: Batches
    notes: list[str]


def split_pictures(pictures: Pictures, settings: AnalysisSettings) -> AnalysisParts:
    """Which pictures are for what; ValueError if there are none."""
    total = len(pictures)
    if total == 0:
        raise ValueError("There are no pictures to analyse the model with.")
    order = torch.randperm(total, generator=generator(settings.seed, "order"))
    num_pass = min(total, settings.num_pictures or max(total - settings.num_curve, -(-total // 2)))
    chosen, apart, notes = order[:num_pass], order[num_pass:], []
    wanted = min(settings.num_curve, total)
    if len(apart) < min(wanted, -(-num_pass // 4)):
        apart = order.flip(0)
        notes.append("The curves were measured on pictures of the pass: no others were left.")
    elif len(apart) < wanted:
        notes.append(f"Only {len(apart)} pictures were left for the curves.")

    def batches(indices: Tensor) -> Batches:
        return Batches(pictures, indices.sort().values, settings.batch_size, settings.seed)

    return AnalysisParts(
        batches(chosen),
        batches(chosen[: settings.num_search]),
        batches(apart[: settings.num_curve]),
        notes,
    )


def _gather(system: LatentDiffusion, parts: AnalysisParts, settings: AnalysisSettings) -> Evidence:
    """All that is measured before ranking."""
    statistics = measure_statistics(system, parts.whole_pass)
    moments, num_channels = statistics.moments, len(statistics.kl)
    num_classes = len(parts.whole_pass.pictures.class_names)
    told_apart = 2 <= num_classes <= MAX_CLASSES
    left_out = LeaveOneOut(moments, num_classes if told_apart else 1)
    metric = DecoderMetric(num_channels, settings.num_probes, settings.seed)
    taylor = scores = None
    if system.denoiser is not None:
        taylor = TaylorScores(system, num_channels, settings.num_bands, settings.seed)
    for batch in parts.whole_pass.of_this_process(system, "Measuring channels"):
        left_out.add(system, batch)
        metric.add(system, batch)
        if taylor is not None:
            taylor.add(system, batch)
    if settings.learned_steps:
        scores = learn_scores(
            system, parts.whole_pass, moments, settings.learned_steps, settings.fill
        )
    return Evidence(
        statistics,
        metric.reduce(),
        left_out.reduce(),
        eliminate_by_decoding(system, parts.search, moments, settings.fill),
        [] if taylor is None else taylor.bands,
        None if taylor is None else taylor.reduce(),
        scores,
    )


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
