"""Which channels to keep, from what an analysis measured."""

from dataclasses import dataclass

from pelap.analysis.analysis_record import Analysis


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
    counts = sorted(analysis.random.num_kept)
    if keep is not None:
        if not 1 <= keep <= analysis.num_channels:
            raise ValueError(f"keep is {keep}: it must be from 1 to {analysis.num_channels}.")
        if keep not in counts:
            known = ", ".join(map(str, counts))
            raise ValueError(f"keep is {keep}: the curves were measured at {known} channels only.")
        return _recommend(analysis, keep, criterion, "")
    assert max_psnr_drop is not None
    if max_psnr_drop < 0:
        raise ValueError(f"max_psnr_drop is {max_psnr_drop:g} dB: it must be at least 0.")
    limit = f" and {max_psnr_drop:g} dB are allowed"
    for count in counts:
        recommendation = _recommend(analysis, count, criterion, limit)
        if recommendation.drop_db <= max_psnr_drop:
            return recommendation
    raise ValueError(f"No number of channels stays within {max_psnr_drop:g} dB.")


def _recommend(analysis: Analysis, num_kept: int, asked: str | None, limit: str) -> Recommendation:
    """The best criterion's channels, or those of the criterion that was asked for."""
    criteria = analysis.criteria if asked is None else [analysis.criterion(asked)]
    best = max(criteria, key=lambda criterion: criterion.at(num_kept).psnr_db)
    point = best.at(num_kept)
    drop = analysis.psnr_db - point.psnr_db
    place = analysis.random.num_kept.index(num_kept)
    random_drop = analysis.psnr_db - analysis.random.mean_db[place]
    why = "reconstructs best" if asked is None else "was asked for"
    return Recommendation(
        best.name,
        sorted(point.channels),
        num_kept,
        point.psnr_db,
        drop,
        random_drop,
        f"Of {analysis.num_channels} channels, criterion {best.name} keeps {num_kept}, "
        f"which {why}: the PSNR falls by {drop:.2f} dB{limit}, with random channels by "
        f"{random_drop:.2f} dB.",
    )
