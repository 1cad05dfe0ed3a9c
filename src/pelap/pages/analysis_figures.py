"""Curves and bars about an analysis; analysis_heat_maps.py has its heat maps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import Recommendation
from pelap.pages.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    key,
    legend,
    new_figure,
    plain,
    plain_numbers,
    whole_numbers,
)

ROTATION_COLOURS = {"pca": PURPLE, "decoder": GREEN}
HIGHLIGHTED = ((BLUE, 4.0, 7.0), (SKY, 2.4, 4.6), (ORANGE, 1.2, 2.8))
"""Colour, line and marker width of the best criteria: curves that coincide show as nested lines."""
LEAST_LOSS_DB = 0.01
"""Curves leave the logarithmic panel below this."""


@dataclass(frozen=True)
class _Line:
    """A curve of PSNR by number of kept channels."""

    label: str
    num_kept: list[int]
    psnr_db: list[float]
    colour: str
    width: float
    marker: str
    size: float
    style: str = "-"


def draw_curves(analysis: Analysis, recommendation: Recommendation | None) -> Figure:
    """PSNR by kept channels, and the loss on a log scale; random choices are always drawn."""
    counts = analysis.random.num_kept
    panels = 2 if len(counts) > 1 else 1
    figure = new_figure(3.6 + 2.2 * (panels - 1))
    top, *bottom = figure.subplots(panels, 1, sharex=True, squeeze=False).flat
    lines = _lines(analysis, best_criteria(analysis, recommendation))

    def loss(values: np.ndarray) -> np.ndarray:
        return np.maximum(analysis.psnr_db - values, LEAST_LOSS_DB / 2)

    _draw_lines(top, analysis, lines, recommendation, lambda values: values)
    top.axhline(analysis.psnr_db, color=BLACK, lw=0.9, ls=":")
    top.set_title("PSNR of reconstructions, dB (dotted: all channels)")
    for axes in bottom:
        _draw_lines(axes, analysis, lines, recommendation, loss)
        axes.set_yscale("log")
        axes.set_ylim(LEAST_LOSS_DB, max(1.0, 1.3 * axes.dataLim.y1))
        plain_numbers(axes.yaxis)
        axes.set_title("PSNR lost, dB")
        axes.set_xlim(min(counts) - 0.02 * max(counts), 1.02 * max(counts))
    last = bottom[-1] if bottom else top
    last.set_xlabel("channels kept")
    whole_numbers(last.xaxis)
    legend(figure, _keys(analysis, lines, recommendation), columns=2)
    return figure


def _lines(analysis: Analysis, best: list[str]) -> list[_Line]:
    """In the order in which to draw them."""
    grey, highlighted = [], {}
    for criterion in analysis.criteria:
        name, kept = criterion.name, [point.num_kept for point in criterion.curve]
        values = [point.psnr_db for point in criterion.curve]
        if name in best:
            colour, width, size = HIGHLIGHTED[best.index(name)]
            highlighted[name] = _Line(plain(name), kept, values, colour, width, "o", size)
        else:
            grey.append(_Line("", kept, values, GREY, 0.9, "", 0))
    drawn = analysis.random
    label = f"random, {len(drawn.psnr_db[0])} draws"
    random = _Line(label, drawn.num_kept, drawn.mean_db, VERMILLION, 2, "v", 4.5)
    rotations = []
    for curve in analysis.rotations:
        label, colour = f"rotation {plain(curve.kind)}", ROTATION_COLOURS.get(curve.kind, BLACK)
        line = _Line(label, curve.num_kept, curve.psnr_db, colour, 1.6, "D", 3.5, "--")
        rotations.append(line)
    return [*grey, random, *(highlighted[name] for name in best), *rotations]


def best_criteria(analysis: Analysis, recommendation: Recommendation | None) -> list[str]:
    """The recommended criterion, then those with the highest mean PSNR over the curve."""
    means = {
        c.name: float(np.mean([point.psnr_db for point in c.curve])) for c in analysis.criteria
    }
    if recommendation is not None:
        means[recommendation.criterion] = np.inf
    return sorted(means, key=lambda name: -means[name])[: len(HIGHLIGHTED)]


def _draw_lines(
    axes: Axes,
    analysis: Analysis,
    lines: list[_Line],
    recommendation: Recommendation | None,
    scale: Callable[[np.ndarray], np.ndarray],
) -> None:
    draws = scale(np.asarray(analysis.random.psnr_db))  # (K, draws)
    worst, best = draws.min(axis=1), draws.max(axis=1)
    axes.fill_between(analysis.random.num_kept, worst, best, color=VERMILLION, alpha=0.15, lw=0)
    for line in lines:
        values, look = scale(np.asarray(line.psnr_db)), {"marker": line.marker, "ms": line.size}
        axes.plot(line.num_kept, values, line.style, color=line.colour, lw=line.width, **look)
    if recommendation is not None:
        place = scale(np.asarray([recommendation.psnr_db]))
        axes.plot([recommendation.num_kept], place, "o", ms=13, mfc="none", mec=BLACK, mew=1.6)


def _keys(analysis: Analysis, lines: list[_Line], recommendation: Recommendation | None) -> list:
    """Entries from the highest curve to the lowest, then what is no single curve."""
    named = sorted((line for line in lines if line.label), key=lambda line: -np.mean(line.psnr_db))
    keys = [key(line.colour, line.label, line.marker, line=True) for line in named]
    for entry, line in zip(keys, named, strict=True):
        entry.set(linestyle=line.style, linewidth=line.width, markersize=line.size)
    num_others = len(lines) - len(named)
    if num_others:
        keys.append(key(GREY, f"{num_others} other criteria", "", line=True))
    if recommendation is not None:
        keys.append(key(BLACK, f"recommended: {recommendation.num_kept} kept", hollow=True))
    return keys


def draw_channels(analysis: Analysis) -> Figure:
    """What leaving out each channel costs, beside its variance; most important first."""
    channels = [analysis.channels[index] for index in importance_order(analysis)]
    figure = new_figure(max(2.2, 0.22 * len(channels) + 1.2))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    places = np.arange(len(channels))
    mean = [channel.leave_one_out_db for channel in channels]
    linear = [channel.leave_one_out_linear_db for channel in channels]
    left.hlines(places, linear, mean, color="#cccccc", lw=2)
    left.plot(mean, places, "o", color=VERMILLION, ms=7)
    left.plot(linear, places, "o", color=BLUE, ms=4)
    left.set_title("PSNR lost without it, dB")
    right.barh(places, [channel.energy for channel in channels], color=GREY, height=0.65)
    right.set_title("variance")
    left.set_yticks(places, [str(channel.channel) for channel in channels])
    left.set_ylabel("channel")
    left.set_ylim(len(channels) - 0.4, -0.6)
    handles = [key(VERMILLION, "its mean in its place"), key(BLUE, "predicted from the others")]
    handles[1].set_markersize(4)
    legend(figure, handles, columns=2)
    return figure


def importance_order(analysis: Analysis) -> list[int]:
    """Channels by what leaving them out costs, most first."""
    return sorted(
        range(analysis.num_channels),
        key=lambda index: -analysis.channels[index].leave_one_out_db,
    )


def draw_spectrum(analysis: Analysis) -> Figure:
    """Eigenvalues of the covariance, and how well each channel is predicted by the others."""
    figure = new_figure(2.5)
    left, right = figure.subplots(1, 2)
    values = np.asarray(analysis.eigenvalues)
    values = np.clip(values, max(1e-6 * values.max(), 1e-12), None)
    left.plot(range(1, len(values) + 1), values / values.sum(), color=BLUE, marker="o", ms=4)
    if values.max() > 10 * values.min():
        left.set_yscale("log")
        plain_numbers(left.yaxis)
    else:
        left.set_ylim(0, None)
    left.set_title("share of the variance")
    left.set_xlabel("eigenvector")
    whole_numbers(left.xaxis)
    right.bar(range(len(values)), [channel.r2 for channel in analysis.channels], color=BLUE)
    right.set_ylim(0, 1)
    right.set_title("R² from the others")
    right.set_xlabel("channel")
    whole_numbers(right.xaxis)
    return figure
