"""Several candidates in turn, so that what disturbs the machine disturbs all of them."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def alternate(calls: Sequence[Callable[[], T]], rounds: int) -> list[list[T]]:
    """What each call returns in every round; the order is reversed every other round."""
    results: list[list[T]] = [[] for _ in calls]
    for number in range(rounds):
        places = range(len(calls))
        for place in reversed(places) if number % 2 else places:
            results[place].append(calls[place]())
    return results


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and largest of slow / fast, round by round."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return median(ratios), min(ratios), max(ratios)
