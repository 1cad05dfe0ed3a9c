"""Curves, bars and heat maps about an analysis."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import Recommendation
from pelap.pages import canvas
from pelap.pages.numbers import ABSENT, signed

ROTATION_COLOURS = {"pca": canvas.PURPLE, "decoder": canvas.GREEN}
HIGHLIGHTED = ((canvas.BLUE, 4.0, 7.0), (canvas.SKY, 2.4, 4.6), (canvas.ORANGE, 1.2, 2.8))
"""Colour, line and marker width of the best criteria: curves that coincide show as nested lines."""
LEAST_LOSS_DB = 0.01
"""Curves leave the logarithmic panel below this."""
MOST_NUMBERS = 12
"""Sides of a heat map up to which its cells are labelled."""
MOST_CLASSES = 30

_Line = tuple[str, list[int], list[float], canvas.Look]
"""Label, numbers of kept channels, PSNR in dB, and how it is drawn."""


def draw_curves(analysis: Analysis, recommendation: Recommendation | None) -> Figure:
    """PSNR by kept channels, and the loss on a log scale; random choices are always drawn."""
    random, counts = analysis.random, analysis.random.num_kept
    num_panels = 2 if len(counts) > 1 else 1
    figure, panels = canvas.new_panels(1.4 + 2.2 * num_panels, num_panels, sharex=True)
    lines = _lines(analysis, best_criteria(analysis, recommendation))

    def loss(values: np.ndarray) -> np.ndarray:
        return np.maximum(analysis.psnr_db - values, LEAST_LOSS_DB / 2)

    scales: tuple[Callable[[np.ndarray], np.ndarray], ...] = (lambda values: values, loss)
    for axes, scale in zip(panels, scales, strict=False):
        draws = scale(np.asarray(random.psnr_db))  # (K, draws)
        ends = draws.min(axis=1), draws.max(axis=1)
        axes.fill_between(counts, *ends, color=canvas.VERMILLION, alpha=0.15, lw=0)
        for _, kept, psnr_db, look in lines:
            axes.plot(kept, scale(np.asarray(psnr_db)), **look)
        if recommendation is not None:
            place = scale(np.asarray([recommendation.psnr_db]))
            axes.plot(
                [recommendation.num_kept], place, "o", ms=13, mfc="none", mec=canvas.BLACK, mew=1.6
            )
    panels[0].axhline(analysis.psnr_db, color=canvas.BLACK, lw=0.9, ls=":")
    panels[0].set_title("PSNR of reconstructions, dB (dotted: all channels)")
    for axes in panels[1:]:
        axes.set_yscale("log")
        axes.set_ylim(LEAST_LOSS_DB, max(1.0, 1.3 * axes.dataLim.y1))
        canvas.plain_numbers(axes.yaxis)
        axes.set_title("PSNR lost, dB")
        axes.set_xlim(min(counts) - 0.02 * max(counts), 1.02 * max(counts))
    panels[-1].set_xlabel("channels kept")
    canvas.whole_numbers(panels[-1].xaxis)
    named = sorted((line for line in lines if line[0]), key=lambda line: -np.mean(line[2]))
    keys = [Line2D([], [], label=label, mew=1.6, **look) for label, _, _, look in named]
    if len(named) < len(lines):
        keys.append(
            canvas.key(canvas.GREY, f"{len(lines) - len(named)} other criteria", "", line=True)
        )
    if recommendation is not None:
        keys.append(
            canvas.key(canvas.BLACK, f"recommended: {recommendation.num_kept} kept", hollow=True)
        )
    canvas.legend(figure, keys, columns=2)
    return figure


def _lines(analysis: Analysis, best: list[str]) -> list[_Line]:
    """In the order in which to draw them."""
    grey: list[_Line] = []
    highlighted: dict[str, _Line] = {}
    for criterion in analysis.criteria:
        name, kept = criterion.name, [point.num_kept for point in criterion.curve]
        values = [point.psnr_db for point in criterion.curve]
        if name in best:
            look = _look(*HIGHLIGHTED[best.index(name)], "o")
            highlighted[name] = (canvas.plain(name), kept, values, look)
        else:
            grey.append(("", kept, values, _look(canvas.GREY, 0.9, 0, "")))
    drawn = analysis.random
    label, look = f"random, {len(drawn.psnr_db[0])} draws", _look(canvas.VERMILLION, 2, 4.5, "v")
    random = (label, drawn.num_kept, drawn.mean_db, look)
    rotations: list[_Line] = []
    for curve in analysis.rotations:
        look = _look(ROTATION_COLOURS.get(curve.kind, canvas.BLACK), 1.6, 3.5, "D", "--")
        rotations.append(
            (f"rotation {canvas.plain(curve.kind)}", curve.num_kept, curve.psnr_db, look)
        )
    return [*grey, random, *(highlighted[name] for name in best), *rotations]


def _look(colour: str, width: float, size: float, marker: str, style: str = "-") -> canvas.Look:
    return {"color": colour, "lw": width, "ms": size, "marker": marker, "ls": style}


def best_criteria(analysis: Analysis, recommendation: Recommendation | None) -> list[str]:
    """The recommended criterion, then those with the highest mean PSNR over the curve."""
    means = {
        c.name: float(np.mean([point.psnr_db for point in c.curve])) for c in analysis.criteria
    }
    if recommendation is not None:
        means[recommendation.criterion] = np.inf
    return sorted(means, key=lambda name: -means[name])[: len(HIGHLIGHTED)]


def draw_channels(analysis: Analysis) -> Figure:
    """What leaving out each channel costs, beside its variance; most important first."""
    channels = [analysis.channels[index] for index in importance_order(analysis)]
    height = max(2.2, 0.22 * len(channels) + 1.2)
    figure, (left, right) = canvas.new_panels(height, 1, 2, sharey=True, width_ratios=[3, 1])
    places = np.arange(len(channels))
    mean = [channel.leave_one_out_db for channel in channels]
    linear = [channel.leave_one_out_linear_db for channel in channels]
    left.hlines(places, linear, mean, color="#cccccc", lw=2)
    left.plot(mean, places, "o", color=canvas.VERMILLION, ms=7)
    left.plot(linear, places, "o", color=canvas.BLUE, ms=4)
    left.set_title("PSNR lost without it, dB")
    right.barh(places, [channel.energy for channel in channels], color=canvas.GREY, height=0.65)
    right.set_title("variance")
    canvas.channel_rows(left, [channel.channel for channel in channels])
    handles = [
        canvas.key(canvas.VERMILLION, "its mean in its place"),
        canvas.key(canvas.BLUE, "predicted from the others"),
    ]
    handles[1].set_markersize(4)
    canvas.legend(figure, handles, columns=2)
    return figure


def importance_order(analysis: Analysis) -> list[int]:
    """Channels by what leaving them out costs, most first."""
    costs = [channel.leave_one_out_db for channel in analysis.channels]
    return sorted(range(analysis.num_channels), key=lambda index: -costs[index])


def draw_spectrum(analysis: Analysis) -> Figure:
    """Eigenvalues of the covariance, and how well each channel is predicted by the others."""
    figure, (left, right) = canvas.new_panels(2.5, 1, 2)
    values = np.asarray(analysis.eigenvalues)
    values = np.clip(values, max(1e-6 * values.max(), 1e-12), None)
    left.plot(range(1, len(values) + 1), values / values.sum(), color=canvas.BLUE, marker="o", ms=4)
    if values.max() > 10 * values.min():
        left.set_yscale("log")
        canvas.plain_numbers(left.yaxis)
    else:
        left.set_ylim(0, None)
    right.bar(range(len(values)), [channel.r2 for channel in analysis.channels], color=canvas.BLUE)
    right.set_ylim(0, 1)
    for axes, title, label in (
        (left, "share of the variance", "eigenvector"),
        (right, "R² from the others", "channel"),
    ):
        axes.set_title(title)
        axes.set_xlabel(label)
        canvas.whole_numbers(axes.xaxis)
    return figure


def draw_matrices(analysis: Analysis) -> Figure:
    """The decoder's metric M beside the correlation of the latents."""
    figure, (left, right) = canvas.new_panels(3.5, 1, 2)
    metric = np.asarray(analysis.decoder_metric)
    covariance = np.asarray(analysis.moments.covariance)
    spread = np.sqrt(np.clip(np.diag(covariance), 1e-24, None))
    largest = float(np.abs(metric).max()) or 1.0
    for axes, matrix, limit, title in (
        (left, metric, largest, "decoder's metric M"),
        (right, covariance / np.outer(spread, spread), 1.0, "correlation"),
    ):
        image = _by_channel(axes, matrix, "RdBu_r", Normalize(-limit, limit))
        axes.set_aspect("equal")
        axes.set_title(title)
        canvas.whole_numbers(axes.yaxis)
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=26, pad=0.03)
        bar.set_ticks([-limit, 0, limit], labels=[signed(v, ".2g") for v in (-limit, 0, limit)])
    return figure


def draw_agreement(analysis: Analysis) -> Figure:
    """Kendall's τ of each two criteria."""
    names = [canvas.plain(name) for name in analysis.agreement.names]
    tau = np.asarray(analysis.agreement.tau, dtype=float)
    figure, (axes,) = canvas.new_panels(0.33 * len(names) + 1.6)
    image = _heat(axes, tau, "RdBu_r", Normalize(-1, 1))
    for (row, column), value in np.ndenumerate(tau) if len(names) <= MOST_NUMBERS else ():
        known = bool(np.isfinite(value))
        red, green, blue, _ = image.cmap(image.norm(value)) if known else (1,) * 4
        colour = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
        text = signed(value, ".1f") if known else ABSENT
        axes.text(column, row, text, ha="center", va="center", size=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Kendall's τ")
    return figure


def draw_taylor(analysis: Analysis) -> Figure:
    """What the denoiser uses of each channel, by band of timesteps."""
    values = np.asarray([channel.taylor for channel in analysis.channels], dtype=float).T
    mean = values.mean(axis=1, keepdims=True)
    ratio = np.divide(values, mean, out=np.full_like(values, np.nan), where=mean > 0)
    known = ratio[ratio > 0]
    largest = float(np.exp(np.abs(np.log(known)).max())) if known.size else 1.0
    limit = min(max(largest, 1.25), 8.0)
    figure, (axes,) = canvas.new_panels(0.42 * len(values) + 1.5)
    image = _by_channel(axes, np.clip(ratio, 1 / limit, None), "PuOr_r", LogNorm(1 / limit, limit))
    axes.set_yticks(range(len(values)), [f"{a} to {b}" for a, b in analysis.timestep_bands])
    axes.set_ylabel("timesteps")
    axes.set_title("pull on the denoiser's loss (1: mean channel)")
    bar = figure.colorbar(image, ax=axes, aspect=12, pad=0.02)
    ends = [1 / limit, 1, limit]
    bar.set_ticks(ends, labels=[f"× {value:.2g}" for value in ends])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


def draw_classes(analysis: Analysis) -> Figure:
    """What leaving out each channel costs in each class that has pictures."""
    rows = class_rows(analysis)
    figure, (axes,) = canvas.new_panels(0.22 * len(rows) + 1.5)
    values = np.asarray(list(rows.values()))
    norm = Normalize(min(0.0, float(values.min())), max(float(values.max()), 1e-9))
    image = _by_channel(axes, values, "Blues", norm)
    axes.set_yticks(range(len(rows)), [canvas.plain(name, 20) for name in rows])
    axes.set_title("PSNR lost without the channel, dB")
    figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    return figure


def class_rows(analysis: Analysis) -> dict[str, list[float]]:
    """PSNR lost by channel, for each class with pictures; of many the furthest from the mean."""
    columns = [channel.leave_one_out_db_by_class for channel in analysis.channels]
    rows: dict[str, list[float]] = {}
    for index, name in enumerate(analysis.class_names):
        row = [column[index] for column in columns if column]
        known = [value for value in row if value is not None]
        if len(known) == analysis.num_channels:
            rows[name] = known
    if len(rows) <= MOST_CLASSES:
        return rows
    mean = np.mean(list(rows.values()), axis=0)
    furthest = sorted(rows, key=lambda name: -np.abs(np.asarray(rows[name]) - mean).max())
    return {name: rows[name] for name in rows if name in furthest[:MOST_CLASSES]}


def _by_channel(axes: Axes, values: np.ndarray, colours: str, norm: Normalize) -> AxesImage:
    canvas.whole_numbers(axes.xaxis)
    axes.set_xlabel("channel")
    return _heat(axes, values, colours, norm)


def _heat(axes: Axes, values: np.ndarray, colours: str, norm: Normalize) -> AxesImage:
    axes.grid(False)
    return axes.imshow(values, cmap=colours, norm=norm, aspect="auto")
