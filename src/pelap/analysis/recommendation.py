"""Which channels to keep, from what an analysis measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from pelap.analysis.analysis_record import Analysis, CriterionResult, CurvePoint


@dataclass(frozen=True)
class Recommendation:
    """Channels to keep, and what that costs on the curve pictures."""

    criterion: str
    channels: list[int]
    """Rising."""
    num_kept: int
    psnr_db: float
    drop_db: float
    """Fall of the PSNR from all channels to these."""
    random_drop_db: float
    """Fall of the PSNR to as many random channels, mean over the draws."""
    reason: str
    """One sentence."""


def recommend(
    analysis: Analysis,
    *,
    keep: int | None = None,
    max_psnr_drop: float | None = None,
    criterion: str | None = None,
) -> Recommendation:
    """The channels that reconstruct best, as many as asked for or as few as a limit allows.

    Give exactly one of `keep` and `max_psnr_drop`. Of criteria that do equally well, the first.

    Args:
        analysis: From `analyze`.
        keep: Number of channels to keep; one at which the curves were measured.
        max_psnr_drop: Largest fall of the PSNR in dB, from all channels to the kept ones.
        criterion: Whose ranking to take; the best one by default.

    Raises:
        ValueError: If both or none are given, the criterion is unknown, the curves were not
            measured at `keep`, or `max_psnr_drop` is negative.
    """
    if (keep is None) == (max_psnr_drop is None):
        raise ValueError("Give either keep or max_psnr_drop, and not both.")
    criteria = analysis.criteria if criterion is None else [analysis.criterion(criterion)]
    if keep is not None:
        _check_count(analysis, keep)
        best, point = _best(criteria, keep)
        return _recommend(analysis, best, point, criterion is None, "")
    assert max_psnr_drop is not None
    if max_psnr_drop < 0:
        raise ValueError(f"max_psnr_drop is {max_psnr_drop:g} dB: it must be at least 0.")
    for best, point in (_best(criteria, count) for count in _counts(analysis)):
        if analysis.psnr_db - point.psnr_db <= max_psnr_drop:
            limit = f" and {max_psnr_drop:g} dB are allowed"
            return _recommend(analysis, best, point, criterion is None, limit)
    raise ValueError(f"No number of channels stays within {max_psnr_drop:g} dB.")


def _counts(analysis: Analysis) -> Iterator[int]:
    return iter(sorted(analysis.random.num_kept))


def _check_count(analysis: Analysis, keep: int) -> None:
    if not 1 <= keep <= analysis.num_channels:
        raise ValueError(f"keep is {keep}: it must be from 1 to {analysis.num_channels}.")
    if keep not in analysis.random.num_kept:
        known = ", ".join(map(str, _counts(analysis)))
        raise ValueError(f"keep is {keep}: the curves were measured at {known} channels only.")


def _best(criteria: list[CriterionResult], count: int) -> tuple[CriterionResult, CurvePoint]:
    best = max(criteria, key=lambda one: one.at(count).psnr_db)
    return best, best.at(count)


def _recommend(
    analysis: Analysis, best: CriterionResult, point: CurvePoint, was_chosen: bool, limit: str
) -> Recommendation:
    drop = analysis.psnr_db - point.psnr_db
    place = analysis.random.num_kept.index(point.num_kept)
    random_drop = analysis.psnr_db - analysis.random.mean_db[place]
    why = "reconstructs best" if was_chosen else "was asked for"
    return Recommendation(
        best.name,
        sorted(point.channels),
        point.num_kept,
        point.psnr_db,
        drop,
        random_drop,
        f"Of {analysis.num_channels} channels, criterion {best.name} keeps {point.num_kept}, "
        f"which {why}: the PSNR falls by {drop:.2f} dB{limit}, with random channels by "
        f"{random_drop:.2f} dB.",
    )
