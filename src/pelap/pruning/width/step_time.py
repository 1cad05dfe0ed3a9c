"""Whether fewer MACs of a shape are less time too, and the nearest shape where they are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from pelap.pruning.width.shape_space import ShapeSpace
from pelap.pruning.width.shapes import Shape

LEAST_MACS = 200_000_000
"""Of the original's step: of a shorter one it is not the widths that decide."""
TOLERANCE = 0.1
"""A shape's share of the time may be so much larger than its share of the MACs."""
REACH = 0.15
"""How far shapes that are timed instead lie from it, as a share of the MACs before."""
NUM_TIMED = 4
FULL = 64
"""Kernels pad widths up to multiples of powers of two, of this one at most."""
Timer = Callable[[nn.Module], float]
"""Time of a step of a network over that of the original."""


@dataclass(frozen=True)
class TimedShape:
    """What a step of a shape takes on this machine."""

    shape: Shape
    share: float
    """Of the original's time."""


@dataclass(frozen=True)
class StepTime:
    """Of the shape that was chosen."""

    share: float
    """Of the original's time."""
    is_less: bool
    """Whether that is at most TOLERANCE above its share of the MACs."""
    nearest: TimedShape | None = None
    """Where it is not: the nearest shape that is no slower and of which it is, of those timed."""


def time_shape(
    space: ShapeSpace,
    chosen: Shape,
    network: nn.Module,
    macs_before: int,
    build: Callable[[Shape], nn.Module],
    timer: Timer,
) -> StepTime:
    """Time a shape; where its MACs do not become time, others near it whose widths pad less.

    Args:
        space: All shapes of the original.
        chosen: The one to time.
        network: It, built.
        macs_before: Of the original's step.
        build: Makes a network of a shape.
        timer: Times it.
    """
    share = timer(network)
    if _is_less(share, chosen, macs_before):
        return StepTime(share, True)
    timed = (
        TimedShape(one, timer(build(one))) for one in _padding_less(space, chosen, macs_before)
    )
    better = (
        one for one in timed if one.share <= share and _is_less(one.share, one.shape, macs_before)
    )
    return StepTime(share, False, next(better, None))


def _is_less(share: float, shape: Shape, macs_before: int) -> bool:
    return share <= shape.macs / macs_before + TOLERANCE


def _padding_less(space: ShapeSpace, chosen: Shape, macs_before: int) -> list[Shape]:
    """Shapes within reach whose widths divide by larger powers of two, the nearest of the best."""
    away = np.abs(space.estimates - chosen.macs)  # (N,)
    widths = space.table[:, : space.freedom.num_widths]
    fit = np.log2(np.gcd(widths, FULL)).sum(axis=1)  # (N,)
    own = np.log2(np.gcd(chosen.widths[: space.freedom.num_widths], FULL)).sum()
    rows = np.flatnonzero((away <= REACH * macs_before) & (fit > own))
    order = rows[np.lexsort((away[rows], -fit[rows]))][:NUM_TIMED]
    return [space.count(int(row)) for row in sorted(order, key=lambda row: away[row])]
