"""Quality against every cost: small multiples with the Pareto front in each."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pelap.pages.canvas import (
    BLACK,
    BLUE,
    VERMILLION,
    WIDTH,
    key,
    legend,
    new_figure,
    plain,
    scale_values,
)
from pelap.pages.label_places import place_labels
from pelap.pages.numbers import tick
from pelap.pages.tradeoff_points import (
    Role,
    TradeoffPoint,
    cost_title,
    higher_is_better,
    metric_title,
)
from pelap.pages.tradeoff_words import pareto_front

LOOKS: dict[Role, tuple[str, str, bool]] = {
    "unpruned": (BLACK, "D", False),
    "random": (VERMILLION, "v", True),
    "pruned": (BLUE, "o", False),
}
"""Colour, marker, and whether it is hollow."""
FRONT, SHADE = "#5c6168", "#eef0f2"
PANEL_WIDTH, PANEL_HEIGHT = 3.3, 2.45
"""Inches, where there are several columns."""
MARKER_SIZE = 7.0
PLACE: dict[str, Any] = {"xycoords": "figure points", "annotation_clip": False}
HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]
LABEL = PLACE | {"size": 8.5, "color": "#222222", "zorder": 5, "path_effects": HALO}
"""How a model's name is drawn."""
LABEL_LIMIT = 22
"""Characters."""
FAR = 9.0
"""Points between a label and its marker from which on a line joins them."""


def draw_tradeoff(points: Sequence[TradeoffPoint], metric: str, columns: int = 1) -> Figure:
    """A panel for each cost that all models have; a marker with bars for each model.

    The front is of the means; what it dominates is shaded. Dotted lines cross at the first
    unpruned model. Draw through `canvas.drawing` for the report's style.

    Args:
        points: The models.
        metric: Name in their `quality`.
        columns: Panels side by side.
    """
    costs = shared_costs(points)
    rows = -(-len(costs) // columns)
    width = WIDTH if columns == 1 else PANEL_WIDTH * columns
    figure = new_figure(PANEL_HEIGHT * rows + 0.4, width)
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes, cost in zip(panels, costs, strict=False):
        _draw_panel(axes, points, metric, cost)
    for axes in panels[: len(costs) : columns]:
        axes.set_ylabel(metric_title(metric))
    _add_keys(figure, panels[len(costs) :], points, columns)
    figure.draw_without_rendering()  # labels are placed in the panels' final size
    for axes, cost in zip(panels, costs, strict=False):
        _label(figure, axes, _shown(points, metric, cost), metric, cost)
    return figure


def shared_costs(points: Sequence[TradeoffPoint]) -> list[str]:
    """Names of the costs that every model has."""
    return [name for name in points[0].cost if all(name in point.cost for point in points)]


def _shown(points: Sequence[TradeoffPoint], metric: str, cost: str) -> list[TradeoffPoint]:
    return [
        point
        for point in points
        if metric in point.quality
        and math.isfinite(point.quality[metric].mean)
        and math.isfinite(point.cost[cost].mean)
    ]


def _draw_panel(axes: Axes, points: Sequence[TradeoffPoint], metric: str, cost: str) -> None:
    shown = _shown(points, metric, cost)
    axes.margins(0.16, 0.2)
    for point in [point for point in shown if point.role == "unpruned"][:1]:
        axes.axvline(point.cost[cost].mean, color=BLACK, lw=0.7, ls=":", zorder=1)
        axes.axhline(point.quality[metric].mean, color=BLACK, lw=0.7, ls=":", zorder=1)
    for point in shown:
        _mark(axes, point, metric, cost)
    ends = [end for point in shown for end in point.quality[metric].ends]
    scale_values(axes, ends)
    _draw_front(axes, shown, metric, cost)
    axes.set_title(cost_title(cost))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def _mark(axes: Axes, point: TradeoffPoint, metric: str, cost: str) -> None:
    colour, marker, hollow = LOOKS[point.role]
    x, y = point.cost[cost], point.quality[metric]
    axes.plot([x.mean] * 2, y.ends, color=colour, lw=1.3, alpha=0.7, zorder=3)
    axes.plot(x.ends, [y.mean] * 2, color=colour, lw=1.3, alpha=0.7, zorder=3)
    face, edge = ("white", 1.6) if hollow else (colour, 0)
    mark = axes.plot([x.mean], [y.mean], marker, color=colour, ms=MARKER_SIZE, zorder=4)[0]
    mark.set(markerfacecolor=face, markeredgewidth=edge)


def _draw_front(axes: Axes, points: Sequence[TradeoffPoint], metric: str, cost: str) -> None:
    """A step line, and the shade over everything that costs more and is worse."""
    if not points:
        return
    right, (bottom, top) = axes.get_xlim()[1], axes.get_ylim()
    corners = _front_corners(axes, points, metric, cost)
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    axes.fill_between(xs, ys, ys[0], color=SHADE, lw=0, zorder=0)
    axes.plot(xs, ys, color=FRONT, lw=1.4, zorder=2)
    axes.set_xlim(right=right)
    axes.set_ylim(bottom, top)


def _front_corners(
    axes: Axes, points: Sequence[TradeoffPoint], metric: str, cost: str
) -> list[tuple[float, float]]:
    """From the worst end of the panel along the steps to its right end."""
    higher = higher_is_better(metric)
    x = [point.cost[cost].mean for point in points]
    y = [point.quality[metric].mean for point in points]
    level = axes.get_ylim()[0 if higher else 1]
    corners = []
    for index in pareto_front(x, y, higher_is_better=higher):
        corners += [(x[index], level), (x[index], y[index])]
        level = y[index]
    return [*corners, (axes.get_xlim()[1], level)]


def _add_keys(
    figure: Figure, empty: list[Axes], points: Sequence[TradeoffPoint], columns: int
) -> None:
    """The legend, in an empty panel where there is one."""
    known = {point.role for point in points}
    keys = [
        key(colour, role, marker, hollow)
        for role, (colour, marker, hollow) in LOOKS.items()
        if role in known
    ]
    keys.append(Line2D([], [], color=FRONT, lw=1.6, label="Pareto front"))
    for axes in empty[1:]:
        axes.remove()
    if not empty:
        legend(figure, keys, columns=2 * columns)
        return
    empty[0].set_axis_off()
    empty[0].legend(handles=keys, loc="center", fontsize=10.5, labelspacing=0.9)


def _label(
    figure: Figure, axes: Axes, points: Sequence[TradeoffPoint], metric: str, cost: str
) -> None:
    """Names beside the markers, each where it hides least."""
    scale = 72 / figure.dpi
    places = [(point.cost[cost].mean, point.quality[metric].mean) for point in points]
    marks = [_to_points(axes, place, scale) for place in places]
    notes = [
        axes.annotate(plain(point.label, LABEL_LIMIT), mark, **LABEL)
        for point, mark in zip(points, marks, strict=True)
    ]
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = [note.get_window_extent(renderer) for note in notes]
    sizes = [(scale * extent.width, scale * extent.height) for extent in extents]
    obstacles = [_cover(mark, mark, MARKER_SIZE / 2 + 1) for mark in marks]
    lines = list(pairwise(_front_corners(axes, points, metric, cost))) if points else []
    for point in points:
        x, y = point.cost[cost], point.quality[metric]
        lines += [((x.mean, y.ends[0]), (x.mean, y.ends[1]))]
        lines += [((x.ends[0], y.mean), (x.ends[1], y.mean))]
    for begin, end in lines:
        ends = _to_points(axes, begin, scale), _to_points(axes, end, scale)
        obstacles.append(_cover(*ends, reach=1.5))
    bounds = [scale * side for side in axes.get_window_extent(renderer).extents]
    boxes = place_labels(marks, sizes, obstacles, bounds)
    for note, mark, box in zip(notes, marks, boxes, strict=True):
        _move(note, mark, box, axes)


def _to_points(axes: Axes, place: tuple[float, float], scale: float) -> tuple[float, float]:
    x, y = axes.transData.transform(place)
    return float(scale * x), float(scale * y)


def _cover(begin: tuple[float, float], end: tuple[float, float], reach: float) -> list[float]:
    """The box that an upright or level line between two places covers, so thick to each side."""
    low, high = np.minimum(begin, end) - reach, np.maximum(begin, end) + reach
    return [*low.tolist(), *high.tolist()]


def _move(note: Annotation, mark: tuple[float, float], box: np.ndarray, axes: Axes) -> None:
    """Put a label into its box, joined to its marker where that is far."""
    note.set_position((box[0], box[1]))
    note.set_verticalalignment("bottom")
    note.set_in_layout(False)
    x, y = np.clip(mark, box[:2], box[2:]).tolist()
    if math.dist(mark, (x, y)) <= FAR:
        return
    arrow = {"arrowstyle": "-", "color": "#888888", "lw": 0.7, "shrinkA": 0}
    arrow["shrinkB"] = MARKER_SIZE / 2
    line = axes.annotate("", mark, (x, y), **PLACE, zorder=2.5, arrowprops=arrow)
    line.set_in_layout(False)
