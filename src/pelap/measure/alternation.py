"""Several candidates in turn, so that what disturbs the machine disturbs all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def alternate(calls: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """What each call returns in every round; the order is reversed every other round."""
    found: list[list[T]] = [[] for _ in calls]
    for number in range(rounds):
        places = range(len(calls))
        for place in reversed(places) if number % 2 else places:
            found[place].append(calls[place]())
    return found


@dataclass(frozen=True)
class Spread:
    """A ratio over the rounds of one run."""

    middle: float
    """Median."""
    low: float
    high: float


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """slow / fast, round by round."""
    found = [a / b for a, b in zip(slow, fast, strict=True)]
    return Spread(median(found), min(found), max(found))
