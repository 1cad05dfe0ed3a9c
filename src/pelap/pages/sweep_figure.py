"""Small multiples of a sweep: every figure against the first setting, a line for the others."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pelap.pages.canvas import (
    DPI,
    Drawing,
    category_ticks,
    drawing,
    key,
    legend,
    look_of,
    plain,
    scale_values,
)

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 3.2, 2.2, 2


def draw_sweep(result: dict[str, Any]) -> Drawing:
    """From what sweep.json holds: seeds as dots, means joined."""
    return drawing(lambda: _draw(result))


def _draw(result: dict[str, Any]) -> Figure:
    measured = list(dict.fromkeys(n for point in result["points"] for n in point["figures"]))
    rows = -(-len(measured) // COLUMNS)
    figure = Figure(
        figsize=(PANEL_WIDTH * COLUMNS, PANEL_HEIGHT * rows + 0.5), dpi=DPI, layout="constrained"
    )
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    series = _series(result)
    for axes, name in zip(panels, measured, strict=False):
        _panel(axes, name, result, series)
    for axes in panels[len(measured) :]:
        axes.remove()
    if len(series) > 1:
        handles = [
            key(look_of(place)[0], plain(label or "all"), look_of(place)[1], line=True)
            for place, label in enumerate(series)
        ]
        legend(figure, handles, columns=3)
    return figure


def _series(result: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Grid points by the values of all settings but the first."""
    series: dict[str, list[dict[str, str]]] = {}
    for point in result["points"]:
        others = list(point["settings"].items())[1:]
        label = ", ".join(f"{name.split('.')[-1]} {value}" for name, value in others)
        series.setdefault(label, []).append(point["settings"])
    return series


def _panel(
    axes: Axes, name: str, result: dict[str, Any], series: dict[str, list[dict[str, str]]]
) -> None:
    first, values = next(iter(result["grid"].items()), ("", [""]))
    places = _places(values)
    seen = []
    for index, points in enumerate(series.values()):
        colour, marker = look_of(index)
        means = []
        for settings in points:
            place = places[values.index(settings[first])] if first else 0
            figures = [
                trial["figures"][name]
                for trial in result["trials"]
                if trial["settings"] == settings and name in trial["figures"]
            ]
            axes.plot([place] * len(figures), figures, marker, color=colour, ms=4, alpha=0.5, mew=0)
            if figures:
                means.append((place, sum(figures) / len(figures)))
            seen += figures
        axes.plot(*zip(*sorted(means), strict=True), color=colour, marker=marker, ms=5, lw=1.5)
    axes.set_title(plain(name, 34))
    labels = [plain(value, 12) for value in values]
    category_ticks(axes, labels)
    if places != list(range(len(values))):
        _number_ticks(axes, places, labels)
    axes.set_xlabel(plain(first))
    scale_values(axes, seen)


def _places(values: Sequence[str]) -> list[float]:
    """Positive numbers stand at themselves; words, and numbers among which is a 0, at 0, 1, 2 …"""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) > 1 and all(0 < number < math.inf for number in numbers):
        return numbers
    return list(map(float, range(len(values))))


def _number_ticks(axes: Axes, places: Sequence[float], labels: Sequence[str]) -> None:
    """A tick at each value, on a log scale if they span more than a decade."""
    low, high = min(places), max(places)
    if high > 10 * low:
        axes.set_xscale("log")
        margin = (high / low) ** 0.08
        axes.set_xlim(low / margin, high * margin)
    else:
        axes.set_xlim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    axes.set_xticks(list(places), labels)
    axes.xaxis.set_minor_locator(NullLocator())
