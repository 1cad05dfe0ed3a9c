"""Which latent channels an autoencoder, with its denoiser, uses: measured, ranked and tried out.

    pictures ─┬─ of the pass ──> statistics.py: moments, KL, activity        (encoder)
              │                  decoding.py:   leave one out, metric M      (decoder)
              │                  denoising.py:  Taylor scores                (denoiser)
              │                  elimination.py, learned.py: the two searches
              │                        └──> criteria.py: rankings
              └─ held apart ───> tradeoff.py: PSNR by number of kept channels

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
    CriterionResult,
    MomentsResult,
)
from pelap.analysis.channel_table import describe_channels, worse_than_random
from pelap.analysis.criteria import CRITERIA, Evidence, Order, agree, rank_all
from pelap.analysis.curves import CurveMaker, Curves
from pelap.analysis.decoding import DecoderMetric, LeaveOneOut
from pelap.analysis.elimination import eliminate_by_decoding
from pelap.analysis.learned import learn_scores
from pelap.analysis.statistics import Statistics, measure_statistics
from pelap.analysis.timestep_scores import TaylorScores
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures
from pelap.measure.encoded_batches import Batches, frozen
from pelap.measure.noise_levels import to_db
from pelap.method.system import LatentDiffusion

MAX_CLASSES = 100
"""With more, classes are not told apart: each would have few pictures."""


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
    parts = _split(pictures, settings)
    with frozen(system):
        statistics = measure_statistics(system, parts.whole_pass)
        decoder = _measure_decoder(system, parts.whole_pass, statistics, settings)
        evidence = _gather(system, parts, statistics, decoder, settings)
        orders, missing = rank_all(evidence)
        maker = CurveMaker(statistics.moments, decoder.metric, settings.fill)
        rankings = {name: order.ranking for name, order in orders.items()}
        curves = maker.measure(system, parts.curve, rankings, settings.num_random)
    return _assemble(name, parts, evidence, decoder, orders, curves, missing, settings)


@dataclass(frozen=True)
class _Parts:
    whole_pass: Batches
    search: Batches
    curve: Batches
    notes: list[str]


def _split(pictures: Pictures, settings: AnalysisSettings) -> _Parts:
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

    return _Parts(
        batches(chosen),
        batches(chosen[: settings.num_search]),
        batches(apart[: settings.num_curve]),
        notes,
    )


@dataclass(frozen=True)
class _Decoder:
    """What the second pass found."""

    left_out: LeaveOneOut
    metric: Tensor
    taylor: Tensor | None
    bands: list[tuple[int, int]]


def _measure_decoder(
    system: LatentDiffusion, batches: Batches, statistics: Statistics, settings: AnalysisSettings
) -> _Decoder:
    num_channels = len(statistics.kl)
    num_classes = len(batches.pictures.class_names)
    told_apart = 2 <= num_classes <= MAX_CLASSES
    left_out = LeaveOneOut(statistics.moments, num_classes if told_apart else 1)
    metric = DecoderMetric(num_channels, settings.num_probes, settings.seed)
    taylor = None
    if system.denoiser is not None:
        taylor = TaylorScores(system, num_channels, settings.num_bands, settings.seed)
    for batch in batches.of_this_process(system, "Measuring channels"):
        left_out.add(system, batch)
        metric.add(system, batch)
        if taylor is not None:
            taylor.add(system, batch)
    return _Decoder(
        left_out.reduce(),
        metric.reduce(),
        None if taylor is None else taylor.reduce(),
        [] if taylor is None else taylor.bands,
    )


def _gather(
    system: LatentDiffusion,
    parts: _Parts,
    statistics: Statistics,
    decoder: _Decoder,
    settings: AnalysisSettings,
) -> Evidence:
    moments = statistics.moments
    whole, by_mean, by_others = decoder.left_out.errors()
    scores = None
    if settings.learned_steps:
        scores = learn_scores(
            system, parts.whole_pass, moments, settings.learned_steps, settings.fill
        )
    return Evidence(
        statistics,
        decoder.metric,
        by_mean - whole,
        by_others - whole,
        eliminate_by_decoding(system, parts.search, moments, settings.fill),
        decoder.taylor,
        scores,
    )


def _assemble(
    name: str,
    parts: _Parts,
    evidence: Evidence,
    decoder: _Decoder,
    orders: dict[str, Order],
    curves: Curves,
    missing: list[str],
    settings: AnalysisSettings,
) -> Analysis:
    moments = evidence.statistics.moments
    covariance = moments.covariance
    return Analysis(
        name=name,
        num_channels=len(covariance),
        num_pictures=parts.whole_pass.num_pictures,
        num_search=parts.search.num_pictures,
        num_curve=parts.curve.num_pictures,
        psnr_db=curves.psnr_db,
        pass_psnr_db=to_db(decoder.left_out.errors()[0]),
        fill=settings.fill,
        timestep_bands=[list(band) for band in decoder.bands],
        channels=describe_channels(evidence, decoder.left_out),
        moments=MomentsResult(
            moments.mean.tolist(),
            covariance.tolist(),
            moments.posterior_variance.tolist(),
        ),
        eigenvalues=torch.linalg.eigvalsh(covariance).flip(0).tolist(),
        decoder_metric=decoder.metric.tolist(),
        criteria=[
            CriterionResult(
                key,
                CRITERIA[key].description,
                order.ranking,
                None if order.values is None else order.values.tolist(),
                curves.by_ranking[key],
            )
            for key, order in orders.items()
        ],
        random=curves.random,
        rotations=curves.rotations,
        agreement=Agreement(list(orders), agree(list(orders.values()))),
        class_names=list(parts.curve.pictures.class_names),
        seed=settings.seed,
        notes=[*parts.notes, *missing, *worse_than_random(curves)],
    )
