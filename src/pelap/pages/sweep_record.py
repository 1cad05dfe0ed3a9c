"""What a sweep measured: its trials, and mean and spread over the seeds of each grid point."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial."""

    name: str
    settings: dict[str, str]
    seed: int
    status: Literal["done", "failed"]
    error: str | None
    """Last line that a failed trial said."""
    verdict: str | None
    figures: dict[str, float]
    """Empty for a failed trial."""


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    """NaN if a value is not finite."""
    std: float | None
    """Of the sample; None for one value, or if one is not finite."""
    n: int


@dataclass(frozen=True)
class GridPoint:
    """The trials of one point of the grid, all seeds together."""

    settings: dict[str, str]
    verdicts: dict[str | None, int]
    """How many trials had each."""
    figures: dict[str, Spread]
