"""The figure of sampling.py."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pelap.report.canvas import DPI, GREY, RUN_COLOURS, RUN_MARKERS, WIDTH, key, legend

Point = tuple[int, float, Sequence[float]]
"""Steps, time as a share of the ancestral sampler's, one distance a seed."""


def draw_quality_against_time(
    points: Mapping[str, Sequence[Point]],
    ancestral: Sequence[float],
    most_time: float,
    most_loss: float,
) -> Figure:
    """One line a sampler; the corner that is fast and good enough is shaded."""
    figure = Figure(figsize=(WIDTH, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (_, found), colour, marker in zip(points.items(), RUN_COLOURS, RUN_MARKERS, strict=False):
        means = [float(np.mean(distances)) for _, _, distances in found]
        shares = [share for _, share, _ in found]
        axes.plot(shares, means, color=colour, marker=marker, ms=5, lw=1.5)
        for (steps, share, distances), mean in zip(found, means, strict=True):
            axes.plot([share] * len(distances), distances, marker, color=colour, ms=3, alpha=0.4)
            axes.annotate(
                str(steps), (share, mean), (0, 7), textcoords="offset points", size=8,
                ha="center", color=colour,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    if ancestral:
        limit = float(np.mean(ancestral))
        axes.axhline(limit, color=GREY, lw=1, ls="--")
        low, left = axes.get_ylim()[0], axes.get_xlim()[0]
        axes.fill_between(
            [left, most_time], low, limit * (1 + most_loss), color=GREY, alpha=0.2, lw=0, zorder=0
        )
        axes.set_xlim(left=left)
        axes.set_ylim(bottom=low)
    axes.set_xlabel("time as a share of 1,000-step ancestral sampling")
    axes.set_title("FD-ResNet20; numbers are steps")
    looks = zip(points, RUN_COLOURS, RUN_MARKERS, strict=False)
    handles = [key(colour, name, marker, line=True) for name, colour, marker in looks]
    legend(figure, handles, columns=3)
    return figure
