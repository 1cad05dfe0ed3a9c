"""Shapes that meet a target: those just below it, or the two that are nearest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pelap.core.errors import ConfigError
from pelap.pruning.width.shape_space import ShapeSpace
from pelap.pruning.width.shapes import Shape

WINDOW = 0.02
"""Below the target, as a share of the MACs before: shapes there meet it."""
MAX_SHAPES = 8
"""Compared at most."""
NUM_BEST = 4
"""Of these, those worth most; the others differ from them and each other most."""
POOL = 64
"""Shapes worth most, of which those are."""
MOST_COUNTED = 40
"""Of shapes whose estimate lies in the window."""
NUM_NEAR = 4
"""Counted on either side of a target that none meets."""
NUM_CHEAPER = 4
"""Of shapes that cost less than those at the target and are worth more."""


@dataclass(frozen=True)
class ShapesFound:
    """What there is for a target."""

    shapes: list[Shape]
    """To choose from; the nearest below alone where none meets it."""
    nearest: tuple[Shape, Shape | None] | None = None
    """Where none meets the target: the nearest below and above (None: there is none)."""
    cheaper: tuple[Shape, ...] = ()
    """To choose from as well: they cost less than all `shapes` and are worth more."""


def find_shapes(
    space: ShapeSpace, target: float, macs_before: int, worth: np.ndarray | None = None
) -> ShapesFound:
    """Shapes whose MACs lie in a target's window: those worth most, each with other layers.

    The first level of a UNet stays whole wherever such a shape meets the target. Where numbers are
    coarse, a cheaper shape can be worth more than all in the window: the best such come with them.

    Args:
        space: The denoiser's shapes.
        target: Share of `macs_before`.
        macs_before: Of a denoising step.
        worth: Of each shape, (N,), by which they are chosen; without it, the more evenly all
            numbers shrink, the better.

    Raises:
        ConfigError: If every shape costs more.
    """
    most, least = target * macs_before, (target - WINDOW) * macs_before
    slack = space.error + 1e-9 * macs_before
    within = (space.estimates <= most + slack) & (space.estimates >= least - slack)
    whole = within & (space.table[:, 0] == space.today[0])
    parts = (whole, within & ~whole) if space.freedom.spares_first else (within,)
    for part in parts:
        found = _pick(space, np.flatnonzero(part), worth, (least, most))
        if found:
            return _with_cheaper(ShapesFound(found), space, worth)
    return _with_cheaper(_nearest(space, most), space, worth)


def _with_cheaper(found: ShapesFound, space: ShapeSpace, worth: np.ndarray | None) -> ShapesFound:
    if worth is None:
        return found
    least = min(shape.macs for shape in found.shapes)
    rows = [(space.table == shape.widths).all(axis=1) for shape in found.shapes]
    best = worth[np.any(rows, axis=0)].max()
    better = np.flatnonzero((worth > best) & (space.estimates < least - space.error))
    order = better[np.argsort(-worth[better], kind="stable")][:NUM_CHEAPER]
    return replace(found, cheaper=tuple(space.count(int(row)) for row in order))


def _pick(
    space: ShapeSpace, rows: np.ndarray, worth: np.ndarray | None, window: tuple[float, float]
) -> list[Shape]:
    """At most MAX_SHAPES of these rows whose counted MACs lie in the window, best first."""
    if not len(rows):
        return []
    score = _evenness(space, rows) if worth is None else worth[rows]
    found = []
    for row in _different(space, rows[np.argsort(-score, kind="stable")])[:MOST_COUNTED]:
        shape = space.count(row)
        if window[0] <= shape.macs <= window[1]:
            found.append(shape)
        if len(found) == MAX_SHAPES:
            break
    return found


def _different(space: ShapeSpace, rows: np.ndarray) -> list[int]:
    """Rows, best first, in the order to count them: the best with other layers each, then from the
    POOL of such in turn the one that differs most from all before, then the rest."""
    counts = space.table[rows, space.freedom.num_widths :]  # (n, counts)
    places = (
        np.unique(counts, axis=0, return_index=True)[1] if counts.shape[1] else range(len(rows))
    )
    pool = rows[sorted(places)[:POOL]]
    ratios = space.table[pool] / np.array(space.today)  # (pool, numbers)
    order = list(range(min(NUM_BEST, len(pool))))
    apart = np.abs(ratios[:, None] - ratios[None]).sum(axis=2)  # (pool, pool)
    while len(order) < len(pool):
        order.append(int(np.argmax(apart[:, order].min(axis=1))))
    chosen = pool[order].tolist()
    return [*chosen, *(row for row in rows.tolist() if row not in set(chosen))]


def _evenness(space: ShapeSpace, rows: np.ndarray) -> np.ndarray:
    """0 where all numbers shrink by the same factor, else below, (n,)."""
    ratios = space.table[rows] / np.array(space.today)
    changing = np.array([len(options) > 1 for options in space.freedom.options])
    return ratios[:, changing].min(axis=1) - ratios[:, changing].max(axis=1)


def _nearest(space: ShapeSpace, most: float) -> ShapesFound:
    below = _last(space, np.flatnonzero(space.estimates <= most + space.error), -1)
    above = _last(space, np.flatnonzero(space.estimates > most - space.error), 1)
    under = [shape for shape in below if shape.macs <= most]
    over = [shape for shape in above if shape.macs > most]
    if not under:
        least = space.count(int(space.estimates.argmin()))
        share = least.macs / space.count(len(space.table) - 1).macs
        raise ConfigError(
            f"No {type(space.denoiser).__name__} of this family costs so little: the narrowest has "
            f"{share:.2f} of the MACs."
        )
    nearest = max(under, key=lambda shape: shape.macs)
    return ShapesFound([nearest], (nearest, min(over, key=lambda s: s.macs) if over else None))


def _last(space: ShapeSpace, rows: np.ndarray, sign: int) -> Iterator[Shape]:
    """The rows whose estimates come first in rising (1) or falling (-1) order, counted."""
    order = rows[np.argsort(sign * space.estimates[rows], kind="stable")]
    return (space.count(int(row)) for row in order[:NUM_NEAR])
