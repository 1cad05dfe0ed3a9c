"""From what was measured to what is told of each channel, and what to beware of."""

import torch

from pelap.analysis.analysis_record import ChannelAnalysis, CriterionResult
from pelap.analysis.criteria import CRITERIA, Evidence, Order
from pelap.analysis.curves import Curves
from pelap.analysis.decoding import LeaveOneOut
from pelap.analysis.elimination import unexplained_variance
from pelap.analysis.statistics import ACTIVE_VARIANCE
from pelap.measure.noise_levels import to_db

NO_VARIANCE = 1e-12
"""Share of the largest variance that is nothing but rounding."""
CLEARLY_WORSE_DB = 1e-3
"""Less is no difference between a criterion and chance."""


def describe_channels(evidence: Evidence) -> list[ChannelAnalysis]:
    """One entry a channel, by its number."""
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
    channels = range(left_out.num_channels)
    if len(left_out.counts) == 1:
        return [None for _ in channels]
    falls: list[list[float | None]] = [[] for _ in channels]
    for row, count in enumerate(left_out.counts):
        whole, by_mean, _ = left_out.errors(row)
        for c in channels:
            falls[c].append(to_db(whole) - to_db(by_mean[c]) if count else None)
    return list(falls)


def describe_criteria(orders: dict[str, Order], curves: Curves) -> list[CriterionResult]:
    """One entry a criterion, with its curve."""
    return [
        CriterionResult(
            name,
            CRITERIA[name].description,
            order.ranking,
            None if order.values is None else order.values.tolist(),
            curves.by_ranking[name],
        )
        for name, order in orders.items()
    ]


def worse_than_random(curves: Curves) -> list[str]:
    """A sentence for each criterion that random choices beat somewhere."""
    notes = []
    for name, curve in curves.by_ranking.items():
        pairs = zip(curve, curves.random.mean_db, strict=True)
        worse = [
            str(point.num_kept)
            for point, mean_db in pairs
            if point.psnr_db < mean_db - CLEARLY_WORSE_DB
        ]
        if worse:
            notes.append(
                f"Criterion {name} is worse than the mean of random choices at "
                f"{', '.join(worse)} kept channels."
            )
    return notes
