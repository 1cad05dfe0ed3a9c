"""All shapes that a class of denoisers can express, with an estimate of what each costs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, combinations
from math import prod

import numpy as np
from torch import nn

from pelap.core.progress import track
from pelap.families.family import Freedom, Widths
from pelap.measure.macs import PartCounts
from pelap.pruning.rebuild import weightless
from pelap.pruning.width.shapes import Shape, find_freedom

MOST_SHAPES = 300_000
"""Where the class has more, every second value of the finest numbers is left out."""
NUM_SPARE = 8
"""Shapes counted beyond the unknowns of the estimate, which say how exact it is."""


@dataclass(frozen=True)
class ShapeSpace:
    """Every shape of one denoiser."""

    denoiser: nn.Module
    freedom: Freedom
    counts: PartCounts
    table: np.ndarray
    """Widths and counts of layers, int64, (N, numbers)."""
    estimates: np.ndarray
    """MACs of a denoising step, float64, (N,)."""
    error: float
    """Largest difference between an estimate and a count."""

    @property
    def today(self) -> Widths:
        """The denoiser's own."""
        return tuple(options[-1] for options in self.freedom.options)

    def count(self, row: int) -> Shape:
        """A shape with its MACs counted."""
        return _count(self.denoiser, self.freedom, self.counts, self.table[row].tolist())

    def interpolate(self, lost: Callable[[Widths], float]) -> np.ndarray:
        """What is left in each shape, (N,), where each number takes a share away on its own.

        Args:
            lost: The share that goes with a shape in which one number is smaller (or several that
                cannot differ); asked for the least, a middle and today's value of each.
        """
        left = np.ones(len(self.table))
        for column, (values, rows) in self._alone():
            places = sorted({0, len(values) // 2, len(values) - 1})
            shapes = [tuple(self.table[rows[place]].tolist()) for place in places]
            shares = [0.0 if shape == self.today else lost(shape) for shape in shapes]
            points = [values[place] for place in places]
            left *= 1 - np.interp(self.table[:, column], points, shares)
        return left

    def _alone(self) -> Iterator[tuple[int, tuple[list[int], list[int]]]]:
        """For each number its rising values while the others stay, and the rows where they stand.

        Levels that must stay as wide as each other are one number, the first of them.
        """
        same = self.table == np.array(self.today)  # (N, numbers)
        tied = [[column] for column in range(len(self.today))]
        for level, differs in enumerate(self.freedom.steps):
            if not differs:
                tied[level + 1] = tied[level]
                tied[level].append(level + 1)
        for column, together in enumerate(tied):
            if together[0] != column:
                continue
            others = [c for c in range(len(self.today)) if c not in together]
            rows = np.flatnonzero(same[:, others].all(axis=1))
            rows = rows[np.argsort(self.table[rows, column])]
            yield column, (self.table[rows, column].tolist(), rows.tolist())


def open_space(denoiser: nn.Module) -> ShapeSpace:
    """Every shape of a denoiser's class that is no larger than it.

    MACs are a polynomial of the widths and counts, exact but for rounding to whole heads; its
    coefficients follow from some shapes that are counted.

    Raises:
        ModelError: If the class is not supported.
    """
    freedom, counts = find_freedom(denoiser), PartCounts(denoiser)
    table = _all_shapes(freedom)
    terms = _terms(table, freedom)
    chosen = np.arange(len(table))
    if len(table) > terms.shape[1] + NUM_SPARE:
        source = np.random.default_rng(0)
        some = source.choice(len(table) - 2, terms.shape[1] + NUM_SPARE - 2, replace=False) + 1
        chosen = np.array([0, *sorted(some), len(table) - 1])
    counted = track(table[chosen].tolist(), "Counting shapes")
    costs = np.array([_count(denoiser, freedom, counts, w).macs for w in counted], dtype=float)
    if len(chosen) == len(table):
        return ShapeSpace(denoiser, freedom, counts, table, costs, 0.0)
    weights = np.linalg.lstsq(terms[chosen], costs / costs.max(), rcond=None)[0] * costs.max()
    estimates = terms @ weights
    error = float(np.abs(estimates[chosen] - costs).max())
    return ShapeSpace(denoiser, freedom, counts, table, estimates, error)


def _count(denoiser: nn.Module, freedom: Freedom, counts: PartCounts, widths: list[int]) -> Shape:
    updates = freedom.updates(tuple(widths))
    return Shape(tuple(widths), updates, counts.of(weightless(denoiser, updates)))


def _all_shapes(freedom: Freedom) -> np.ndarray:
    """(N, numbers), today's last."""
    options = [np.array(values) for values in freedom.options]
    while prod(map(len, options)) > MOST_SHAPES:
        longest = max(map(len, options))
        options = [one[::-1][::2][::-1] if len(one) == longest else one for one in options]
    table = np.stack(np.meshgrid(*options, indexing="ij"), axis=-1).reshape(-1, len(options))
    for level, differs in enumerate(freedom.steps):
        table = table[(table[:, level] != table[:, level + 1]) == differs]
    return table


def _terms(table: np.ndarray, freedom: Freedom) -> np.ndarray:
    """What MACs are a sum of, (N, terms).

    A level's layers cost its width (attention) or the square of it, times any of its numbers of
    layers; where two levels meet, layers cost the product of their widths.
    """
    values = table / np.array([options[-1] for options in freedom.options])  # (N, numbers)
    widths, counts = values[:, : freedom.num_widths], values[:, freedom.num_widths :]
    terms = [np.ones(len(table))]
    for level in range(freedom.num_widths):
        own = [counts[:, i] for i, levels in enumerate(freedom.levels) if level in levels]
        for some in chain.from_iterable(combinations(own, size) for size in range(len(own) + 1)):
            times = np.prod(some, axis=0) if some else 1.0
            terms += [times * widths[:, level], times * widths[:, level] ** 2]
    terms += [widths[:, i] * widths[:, i + 1] for i in range(freedom.num_widths - 1)]
    return np.stack(terms, axis=1)
