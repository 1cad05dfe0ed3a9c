"""Where labels of points go so that they hide neither each other nor the points.

A box is four numbers in points of 1/72 inch: left, bottom, right, top.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

GAP = 6.0
"""From a point to its label, at least, in points of 1/72 inch."""
DISTANCES = (0.0, 6.0, 13.0, 21.0, 30.0, 40.0, 52.0)
SIDES: list[tuple[float, float]] = [(1, 0), (-1, 0), (0, 1), (0, -1)]
CORNERS = [(right, up) for up in (1.0, -1.0, 0.5, -0.5) for right in (1.0, -1.0)]
DISTANCE_COST, OUTSIDE_COST = 1.5, 50.0
"""Of a point of distance, and of each that a label juts out, in units of hidden area."""
AMBIGUOUS_COST = 60.0
"""Of each point that a label lies nearer to than to its own."""
ROUNDS = 3


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Sequence[float]],
    bounds: Sequence[float],
) -> list[Numbers]:
    """A box for each label: near its point, apart from the others, inside the bounds.

    One after the other takes the place that hides least, then all try again.

    Args:
        points: Where the labelled points are.
        sizes: Width and height of their labels.
        obstacles: Boxes that no label should hide.
        bounds: The box that no label should leave.
    """
    placed: dict[int, Numbers] = {}
    for _ in range(ROUNDS):
        for index, (point, size) in enumerate(zip(points, sizes, strict=True)):
            taken = [*obstacles, *(box for place, box in placed.items() if place != index)]
            rivals = [other for other in points if other != point]
            distance, boxes = _candidates(point, size)
            cost = DISTANCE_COST * distance + OUTSIDE_COST * beyond(boxes, bounds)
            if taken:
                cost += overlaps(boxes, taken).sum(axis=1)
            if rivals:
                nearer = distances(boxes, rivals) < distances(boxes, [point])
                cost += AMBIGUOUS_COST * nearer.sum(axis=1)
            placed[index] = boxes[cost.argmin()]
    return [placed[index] for index in range(len(points))]


def overlaps(boxes: ArrayLike, others: ArrayLike) -> Numbers:
    """Areas (N, M) that boxes (N, 4) share with others (M, 4)."""
    one, other = np.asarray(boxes, float)[:, None], np.asarray(others, float)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    return np.clip(sides, 0, None).prod(axis=-1)


def distances(boxes: ArrayLike, points: ArrayLike) -> Numbers:
    """Of boxes (N, 4), at their nearest places, from points (M, 2), shape (N, M)."""
    corners, places = np.asarray(boxes, float)[:, None], np.asarray(points, float)[None]
    return np.linalg.norm(places - np.clip(places, corners[..., :2], corners[..., 2:]), axis=-1)


def beyond(boxes: ArrayLike, bounds: ArrayLike) -> Numbers:
    """How far boxes (N, 4) reach beyond the bounds (4,), over all sides, shape (N,)."""
    corners, limits = np.asarray(boxes, float), np.asarray(bounds, float)
    outside = np.hstack([limits[:2] - corners[:, :2], corners[:, 2:] - limits[2:]])
    return np.clip(outside, 0, None).sum(axis=1)


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> tuple[Numbers, Numbers]:
    """Distances (K,) beyond the gap, and the boxes (K, 4) that lie so far to each side."""
    directions = np.array([*SIDES, *CORNERS])
    distance = np.repeat(DISTANCES, len(directions))
    direction = np.tile(directions, (len(DISTANCES), 1))
    length = np.linalg.norm(direction, axis=1)
    shift = direction * ((GAP + distance) / length)[:, None]
    begin = np.asarray(point) + shift + (direction - 1) * np.asarray(size) / 2
    return distance, np.hstack([begin, begin + np.asarray(size)])
