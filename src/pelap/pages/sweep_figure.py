"""Small multiples of a sweep: every figure against the first setting, a line for the others."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pelap.pages import canvas
from pelap.pages.sweep_record import GridPoint, TrialResult

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 3.2, 2.2, 2


def draw_sweep(
    grid: Mapping[str, Sequence[str]],
    trials: Sequence[TrialResult],
    grid_points: Sequence[GridPoint],
) -> canvas.Drawing:
    """Seeds as dots, means joined."""
    return canvas.drawing(lambda: _draw(grid, trials, grid_points))


def _draw(
    grid: Mapping[str, Sequence[str]],
    trials: Sequence[TrialResult],
    grid_points: Sequence[GridPoint],
) -> Figure:
    measured = list(dict.fromkeys(n for point in grid_points for n in point.figures))
    first, values = next(iter(grid.items()), ("", [""]))
    labels, places = [canvas.plain(value, 12) for value in values], _places(values)
    series: dict[str, list[dict[str, str]]] = {}
    for point in grid_points:
        others = list(point.settings.items())[1:]
        label = ", ".join(f"{name.split('.')[-1]} {value}" for name, value in others)
        series.setdefault(canvas.plain(label or "all"), []).append(point.settings)
    rows = -(-len(measured) // COLUMNS)
    height, width = PANEL_HEIGHT * rows + 0.5, PANEL_WIDTH * COLUMNS
    figure, panels = canvas.new_panels(height, rows, COLUMNS, width=width)
    for axes in panels[len(measured) :]:
        axes.remove()
    for axes, name in zip(panels, measured, strict=False):
        measuring = [trial for trial in trials if name in trial.figures]
        seen = []
        for index, points in enumerate(series.values()):
            colour, marker = canvas.look_of(index)
            means = []
            for settings in points:
                found = [t.figures[name] for t in measuring if t.settings == settings]
                place = places[values.index(settings[first])] if first else 0
                axes.plot([place] * len(found), found, marker, color=colour, ms=4, alpha=0.5, mew=0)
                means += [(place, sum(found) / len(found))] if found else []
                seen += found
            axes.plot(*zip(*sorted(means), strict=True), color=colour, marker=marker, ms=5, lw=1.5)
        axes.set_title(canvas.plain(name, 34))
        _value_ticks(axes, places, labels)
        axes.set_xlabel(canvas.plain(first))
        canvas.scale_values(axes, seen)
    if len(series) > 1:
        canvas.legend(figure, canvas.keys_of(series), columns=3)
    return figure


def _places(values: Sequence[str]) -> list[float]:
    """Positive numbers stand at themselves; words, and numbers among which is a 0, at 0, 1, 2 …"""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if len(numbers) > 1 and all(0 < number < math.inf for number in numbers):
        return numbers
    return list(map(float, range(len(values))))


def _value_ticks(axes: Axes, places: Sequence[float], labels: Sequence[str]) -> None:
    """A tick at each value, on a log scale if they span more than a decade."""
    low, high = min(places), max(places)
    canvas.category_ticks(axes, labels)
    if list(places) == list(range(len(places))):
        return
    if high > 10 * low:
        axes.set_xscale("log")
        margin = (high / low) ** 0.08
        axes.set_xlim(low / margin, high * margin)
    else:
        axes.set_xlim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    axes.set_xticks(list(places), labels)
    axes.xaxis.set_minor_locator(NullLocator())
