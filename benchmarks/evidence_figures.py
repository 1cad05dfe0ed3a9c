"""Figures that the experiments of this folder share, in the style of the report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.core.files import write_whole
from pelap.pages.canvas import DPI, RUN_COLOURS, RUN_MARKERS, WIDTH, drawing, key, legend

TITLE_CHARACTERS = 16
"""That fit on a line above a narrow panel."""
Series = Mapping[str, Mapping[float, Sequence[float]]]
"""Name → place on the x axis → one value a seed."""


def save_figure(draw: Callable[[], Figure], path: Path) -> None:
    """Draw in the report's style and write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, drawing(draw).png)


def draw_strips(strips: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """One row of pictures (N, H, W, 3) below each title."""
    num, height, width, _ = strips[0][1].shape
    tall = (WIDTH - 0.1) * height / (num * (width + 1))
    figure = Figure(
        figsize=(WIDTH, (tall + 0.27) * len(strips) + 0.1), dpi=DPI, layout="constrained"
    )
    for axes, (title, pictures) in zip(
        np.atleast_1d(figure.subplots(len(strips), 1)), strips, strict=True
    ):
        padded = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
        axes.imshow(np.concatenate(list(padded), axis=1))
        axes.set_axis_off()
        axes.set_title(title, size=10, pad=3)
    return figure


def draw_categories(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """A panel a measure, side by side: a row a category, one dot a seed, a bar at the mean."""
    names = list(dict.fromkeys(name for values in panels.values() for name in values))
    figure = Figure(figsize=(1.4 * WIDTH, 0.3 * len(names) + 1.0), dpi=DPI, layout="constrained")
    columns = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (title, values) in zip(columns, panels.items(), strict=True):
        for name, found in values.items():
            place, mean = names.index(name), np.mean(found)
            axes.plot(found, [place] * len(found), "o", color=RUN_COLOURS[0], ms=5, alpha=0.6)
            axes.vlines(mean, place - 0.3, place + 0.3, color=RUN_COLOURS[1], lw=2)
        axes.set_title(fill(title, TITLE_CHARACTERS), size=10)
        axes.locator_params("x", nbins=4)
        axes.grid(axis="x")
    columns[0].set_yticks(range(len(names)), names)
    columns[0].invert_yaxis()
    return figure


def draw_lines(panels: Mapping[str, Series], x_label: str, x_ticks: Sequence[float]) -> Figure:
    """A panel a measure: means joined, one dot a seed; the same names have the same colours."""
    figure = Figure(figsize=(WIDTH, 2.6 * len(panels) + 0.7), dpi=DPI, layout="constrained")
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    looks = dict(zip(names, zip(RUN_COLOURS, RUN_MARKERS, strict=True), strict=False))
    for axes, (title, series) in zip(
        np.atleast_1d(figure.subplots(len(panels), 1)), panels.items(), strict=True
    ):
        for name, points in series.items():
            _line(axes, points, *looks[name])
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_xticks(list(x_ticks))
    handles = [key(colour, name, marker, line=True) for name, (colour, marker) in looks.items()]
    legend(figure, handles, columns=3)
    return figure


def _line(axes: Axes, points: Mapping[float, Sequence[float]], colour: str, marker: str) -> None:
    for place, values in points.items():
        axes.plot([place] * len(values), values, marker, color=colour, ms=3.5, alpha=0.45, mew=0)
    means = [float(np.mean(values)) for values in points.values()]
    axes.plot(list(points), means, color=colour, marker=marker, ms=5, lw=1.5)
