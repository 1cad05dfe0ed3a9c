"""Where labels of points go so that they hide neither each other nor the points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Box:
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    def distance(self, point: tuple[float, float]) -> float:
        """From its nearest place to a point."""
        return math.dist(point, self.nearest(point))

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The place in it that is nearest to a point."""
        x, y = point
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    def juts_out(self, bounds: "Box") -> float:
        """How far it reaches beyond, over all sides."""
        sides = (bounds.left - self.left, bounds.bottom - self.bottom,
                 self.right - bounds.right, self.top - bounds.top)  # fmt: skip
        return sum(max(0.0, side) for side in sides)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    bounds: Box,
) -> list[Box]:
    """A box for each label: near its point, apart from the others, inside the bounds.

    One after the other takes the place that hides least, then all try again.

    Args:
        points: Where the labelled points are.
        sizes: Width and height of their labels.
        obstacles: What no label should hide.
        bounds: What no label should leave.
    """
    placed: dict[int, Box] = {}
    for _ in range(ROUNDS):
        for index, (point, size) in enumerate(zip(points, sizes, strict=True)):
            others = [box for place, box in placed.items() if place != index]
            rivals = [other for other in points if other != point]
            placed[index] = _best(point, size, [*obstacles, *others], rivals, bounds)
    return [placed[index] for index in range(len(points))]


def _best(
    point: tuple[float, float],
    size: tuple[float, float],
    taken: list[Box],
    rivals: list[tuple[float, float]],
    bounds: Box,
) -> Box:
    candidates = [
        (distance, _beside(point, size, direction, GAP + distance))
        for distance in DISTANCES
        for direction in (*SIDES, *CORNERS)
    ]

    def cost(candidate: tuple[float, Box]) -> float:
        distance, box = candidate
        hidden = sum(box.overlap(other) for other in taken)
        nearer = sum(box.distance(rival) < box.distance(point) for rival in rivals)
        return (
            hidden
            + DISTANCE_COST * distance
            + AMBIGUOUS_COST * nearer
            + OUTSIDE_COST * box.juts_out(bounds)
        )

    return min(candidates, key=cost)[1]


def _beside(
    point: tuple[float, float],
    size: tuple[float, float],
    direction: tuple[float, float],
    gap: float,
) -> Box:
    (x, y), (width, height), (right, up) = point, size, direction
    length = math.hypot(right, up)
    left = x + right * gap / length + (right - 1) * width / 2
    bottom = y + up * gap / length + (up - 1) * height / 2
    return Box(left, bottom, left + width, bottom + height)
