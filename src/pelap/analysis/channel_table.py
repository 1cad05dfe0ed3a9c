"""From what was measured to what is told of each channel, and what to beware of."""

import torch

from pelap.analysis.analysis_record import ChannelAnalysis
from pelap.analysis.criteria import Evidence
from pelap.analysis.curves import Curves
from pelap.analysis.decoding import LeaveOneOut
from pelap.analysis.elimination import unexplained_variance
from pelap.analysis.statistics import ACTIVE_VARIANCE
from pelap.measure.noise_levels import to_db

NO_VARIANCE = 1e-12
"""Share of the largest variance that is nothing but rounding."""
CLEARLY_WORSE_DB = 1e-3


def describe_channels(evidence: Evidence, left_out: LeaveOneOut) -> list[ChannelAnalysis]:
    """One entry a channel, from the evidence and the errors without each channel."""
    statistics, moments = evidence.statistics, evidence.statistics.moments
    variance = moments.covariance.diagonal()
    sensitivity = evidence.metric.diagonal()
    unexplained = unexplained_variance(moments.covariance)
    r2 = torch.where(
        variance > NO_VARIANCE * variance.max(), 1 - unexplained / variance, 1.0
    ).clamp(0, 1)
    whole, by_mean, by_others = left_out.errors()
    by_class = _fall_by_class(left_out)
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
            leave_one_out_db_by_class=(
                None
                if by_class is None
                else [None if fall is None else fall[c] for fall in by_class]
            ),
        )
        for c in range(len(variance))
    ]


def _fall_by_class(left_out: LeaveOneOut) -> list[list[float] | None] | None:
    """Fall of the PSNR without each channel, for each class."""
    if len(left_out.counts) == 1:
        return None
    falls: list[list[float] | None] = []
    for row, count in enumerate(left_out.counts):
        if count == 0:
            falls.append(None)
            continue
        whole, by_mean, _ = left_out.errors(row)
        falls.append([to_db(whole) - to_db(error) for error in by_mean])
    return falls


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
