"""The figure of sampling.py."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from pelap.pages.canvas import DPI, GREY, RUN_COLOURS, RUN_MARKERS, WIDTH, key, legend

Point = tuple[int, float, Sequence[float]]
"""Steps, time as a share of the ancestral sampler's, one distance a seed."""
TICKS = (200, 100, 50, 20, 10)
"""Times as fast."""
LABEL_PLACES = ((8, "bottom"), (-8, "top"))
"""Of the numbers of steps, in points from the outermost seed: above one line, below the other."""


def draw_quality_against_time(
    points: Mapping[str, Sequence[Point]],
    ancestral: Sequence[float],
    most_time: float,
    most_loss: float,
) -> Figure:
    """One line a sampler; the corner that is fast and good enough is shaded."""
    figure = Figure(figsize=(WIDTH, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.margins(y=0.12)
    looks = list(zip(points, RUN_COLOURS, RUN_MARKERS, LABEL_PLACES, strict=False))
    for name, colour, marker, place in looks:
        _draw_line(axes, points[name], colour, marker, place)
    handles = [key(colour, name, marker, line=True) for name, colour, marker, _ in looks]
    if ancestral:
        _draw_limit(axes, float(np.mean(ancestral)), most_time, most_loss)
        handles.append(Line2D([], [], color=GREY, ls="--", label="ddpm, 1,000 steps"))
    axes.xaxis.set_major_locator(FixedLocator([1 / tick for tick in TICKS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"1/{tick}" for tick in TICKS])
    axes.set_xlabel("time as a share of 1,000-step ancestral sampling")
    axes.set_title("FD-ResNet20; numbers are steps")
    legend(figure, handles, columns=3)
    return figure


def _draw_line(
    axes: Axes, found: Sequence[Point], colour: str, marker: str, place: tuple[int, str]
) -> None:
    offset, side = place
    means = [float(np.mean(distances)) for _, _, distances in found]
    axes.plot([share for _, share, _ in found], means, color=colour, marker=marker, ms=5, lw=1.5)
    for steps, share, distances in found:
        axes.plot([share] * len(distances), distances, marker, color=colour, ms=3, alpha=0.4)
        outermost = max(distances) if offset > 0 else min(distances)
        axes.annotate(
            str(steps), (share, outermost), (0, offset), textcoords="offset points", size=9,
            ha="center", va=side, color=colour,
        )  # fmt: skip


def _draw_limit(axes: Axes, distance: float, most_time: float, most_loss: float) -> None:
    low = min(axes.get_ylim()[0], distance * 0.98)
    left = axes.get_xlim()[0]
    most = distance * (1 + most_loss)
    axes.axhline(distance, color=GREY, lw=1.2, ls="--")
    axes.fill_between([left, most_time], low, most, color=GREY, alpha=0.2, lw=0, zorder=0)
    axes.set_xlim(left=left)
    axes.set_ylim(bottom=low)
