"""Quality against every cost: small multiples with the Pareto front in each."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pelap.pages import canvas
from pelap.pages.label_places import place_labels
from pelap.pages.numbers import tick
from pelap.pages.tradeoff_points import (
    Role,
    TradeoffPoint,
    Value,
    cost_title,
    higher_is_better,
    metric_title,
)
from pelap.pages.tradeoff_words import pareto_front

LOOKS: dict[Role, tuple[str, str, bool]] = {
    "unpruned": (canvas.BLACK, "D", False),
    "random": (canvas.VERMILLION, "v", True),
    "pruned": (canvas.BLUE, "o", False),
}
"""Colour, marker, and whether it is hollow."""
PALE = 0.4
"""Opacity of a model that is not ranked."""
FRONT, SHADE = "#5c6168", "#eef0f2"
PANEL_WIDTH, PANEL_HEIGHT = 3.3, 2.45
"""Inches, where there are several columns."""
MARKER_SIZE = 7.0
PLACE: canvas.Look = {"xycoords": "figure points", "annotation_clip": False}
HALO = [patheffects.withStroke(linewidth=2.2, foreground="white")]
LABEL = PLACE | {"size": 8.5, "color": "#222222", "zorder": 5, "path_effects": HALO}
"""How a model's name is drawn."""
LABEL_LIMIT = 22
"""Characters."""
FAR = 9.0
"""Points between a label and its marker from which on a line joins them."""

Place = tuple[float, float]
Mark = tuple[TradeoffPoint, Value, Value]
"""A model with its cost and its quality, as one panel shows them."""


def draw_tradeoff(points: Sequence[TradeoffPoint], metric: str, columns: int = 1) -> Figure:
    """A panel for each cost that all models have; a marker with bars for each model.

    The front is of the means; what it dominates is shaded. Dotted lines cross at the first
    unpruned model. Draw through `canvas.drawing` for the report's style.

    Args:
        points: The models.
        metric: Name in their `quality`.
        columns: Panels side by side.
    """
    costs, drawn = shared_costs(points), []
    rows = -(-len(costs) // columns)
    width = canvas.WIDTH if columns == 1 else PANEL_WIDTH * columns
    figure, panels = canvas.new_panels(PANEL_HEIGHT * rows + 0.4, rows, columns, width=width)
    with_quality = [point for point in points if metric in point.quality]
    for axes, cost in zip(panels, costs, strict=False):
        marks = [(point, point.cost[cost], point.quality[metric]) for point in with_quality]
        marks = [m for m in marks if math.isfinite(m[1].mean) and math.isfinite(m[2].mean)]
        axes.set_title(cost_title(cost))
        drawn.append((axes, marks, _draw_panel(axes, marks, metric)))
    for axes in panels[: len(costs) : columns]:
        axes.set_ylabel(metric_title(metric))
    roles: set[Role] = {point.role for point in points}
    has_front = any(front for *_, front in drawn)
    _add_keys(figure, panels[len(costs) :], roles, columns, has_front)
    figure.draw_without_rendering()  # labels are placed in the panels' final size
    for axes, marks, front in drawn:
        _label(figure, axes, marks, front)
    return figure


def shared_costs(points: Sequence[TradeoffPoint]) -> list[str]:
    """Names of the costs that every model has."""
    return [name for name in points[0].cost if all(name in point.cost for point in points)]


def _draw_panel(axes: Axes, marks: Sequence[Mark], metric: str) -> list[Place]:
    """Markers, bars and the front over its shade; gives the corners of the front.

    Models that the metric does not rank are pale, and no part of the front.
    """
    axes.margins(0.16, 0.2)
    for _, x, y in [mark for mark in marks if mark[0].role == "unpruned"][:1]:
        axes.axvline(x.mean, color=canvas.BLACK, lw=0.7, ls=":", zorder=1)
        axes.axhline(y.mean, color=canvas.BLACK, lw=0.7, ls=":", zorder=1)
    for point, x, y in marks:
        colour, marker, hollow = LOOKS[point.role]
        axes.plot([x.mean] * 2, y.ends, color=colour, lw=1.3, alpha=0.7, zorder=3)
        axes.plot(x.ends, [y.mean] * 2, color=colour, lw=1.3, alpha=0.7, zorder=3)
        look = {"mfc": "white", "mew": 1.6} if hollow else {"mfc": colour, "mew": 0}
        look["alpha"] = 1 if point.is_ranked(metric) else PALE
        axes.plot([x.mean], [y.mean], marker, color=colour, ms=MARKER_SIZE, zorder=4, **look)
    canvas.scale_values(axes, [end for _, _, y in marks for end in y.ends])
    ranked = [mark for mark in marks if mark[0].is_ranked(metric)]
    corners = _front_corners(axes, ranked, higher_is_better(metric)) if len(ranked) > 1 else []
    if corners:
        right, (bottom, top) = axes.get_xlim()[1], axes.get_ylim()
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        axes.fill_between(xs, ys, ys[0], color=SHADE, lw=0, zorder=0)
        axes.plot(xs, ys, color=FRONT, lw=1.4, zorder=2)
        axes.set_xlim(right=right)
        axes.set_ylim(bottom, top)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    return corners


def _front_corners(axes: Axes, marks: Sequence[Mark], higher: bool) -> list[Place]:
    """From the worst end of the panel along the steps to its right end."""
    x, y = [cost.mean for _, cost, _ in marks], [quality.mean for *_, quality in marks]
    level = axes.get_ylim()[0 if higher else 1]
    corners = []
    for index in pareto_front(x, y, higher_is_better=higher):
        corners += [(x[index], level), (x[index], y[index])]
        level = y[index]
    return [*corners, (axes.get_xlim()[1], level)]


def _add_keys(
    figure: Figure, empty: list[Axes], roles: set[Role], columns: int, has_front: bool
) -> None:
    """The legend, in an empty panel where there is one."""
    keys = [
        canvas.key(colour, role, marker, hollow)
        for role, (colour, marker, hollow) in LOOKS.items()
        if role in roles
    ]
    if has_front:
        keys.append(Line2D([], [], color=FRONT, lw=1.6, label="Pareto front"))
    for axes in empty[1:]:
        axes.remove()
    if not empty:
        canvas.legend(figure, keys, columns=2 * columns)
        return
    empty[0].set_axis_off()
    empty[0].legend(handles=keys, loc="center", fontsize=10.5, labelspacing=0.9)


def _label(figure: Figure, axes: Axes, marks: Sequence[Mark], front: Sequence[Place]) -> None:
    """Names beside the markers, each where it hides least; far ones are joined to their markers."""
    scale, transform = 72 / figure.dpi, axes.transData.transform

    def to_points(place: Place) -> Place:
        x, y = (scale * transform(place)).tolist()
        return x, y

    def cover(begin: Place, end: Place, reach: float) -> list[float]:
        """The box of an upright or level line between two places, so thick to each side."""
        low, high = np.minimum(begin, end) - reach, np.maximum(begin, end) + reach
        return [*low.tolist(), *high.tolist()]

    spots = [to_points((x.mean, y.mean)) for _, x, y in marks]
    notes = [
        axes.annotate(canvas.plain(point.label, LABEL_LIMIT), spot, **LABEL)
        for (point, *_), spot in zip(marks, spots, strict=True)
    ]
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = [note.get_window_extent(renderer) for note in notes]
    sizes = [(scale * extent.width, scale * extent.height) for extent in extents]
    lines = list(pairwise(front))
    for _, x, y in marks:
        lines += [((x.mean, y.ends[0]), (x.mean, y.ends[1]))]
        lines += [((x.ends[0], y.mean), (x.ends[1], y.mean))]
    obstacles = [cover(spot, spot, MARKER_SIZE / 2 + 1) for spot in spots]
    obstacles += [cover(to_points(begin), to_points(end), 1.5) for begin, end in lines]
    bounds = [scale * side for side in axes.get_window_extent(renderer).extents]
    arrow = {"arrowstyle": "-", "color": "#888888", "lw": 0.7, "shrinkA": 0}
    arrow["shrinkB"] = MARKER_SIZE / 2
    boxes = place_labels(spots, sizes, obstacles, bounds)
    for note, spot, box in zip(notes, spots, boxes, strict=True):
        note.set_position((box[0], box[1]))
        note.set_verticalalignment("bottom")
        note.set_in_layout(False)
        nearest = tuple(np.clip(spot, box[:2], box[2:]).tolist())
        if math.dist(spot, nearest) > FAR:
            line = axes.annotate("", spot, nearest, **PLACE, zorder=2.5, arrowprops=arrow)
            line.set_in_layout(False)
