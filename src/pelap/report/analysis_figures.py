"""Figures about an analysis: each takes it and gives a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.analysis.recommend import Recommendation
from pelap.analysis.results import Analysis
from pelap.report.canvas import (
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
)

ROTATION_COLOURS = {"pca": PURPLE, "decoder": GREEN}
HIGHLIGHTED = (BLUE, SKY, ORANGE)
"""Of the best criteria; the others are grey."""
MOST_NUMBERS = 12
"""Sides of a heat map up to which its cells are labelled."""


def draw_curves(analysis: Analysis, recommendation: Recommendation | None) -> Figure:
    """PSNR by number of kept channels: criteria, rotations, and always random choices."""
    figure = new_figure(4.4)
    axes = figure.subplots()
    counts = analysis.random.num_kept
    draws = np.asarray(analysis.random.psnr_db)  # (K, draws)
    axes.fill_between(counts, draws.min(axis=1), draws.max(axis=1), color=VERMILLION, alpha=0.15)
    axes.plot(counts, analysis.random.mean_db, color=VERMILLION, lw=2, marker="v", ms=4)
    handles = [key(VERMILLION, f"random, {draws.shape[1]} draws", "v", line=True)]
    best = best_criteria(analysis)
    for criterion in analysis.criteria:
        kept = [point.num_kept for point in criterion.curve]
        values = [point.psnr_db for point in criterion.curve]
        if criterion.name in best:
            colour = HIGHLIGHTED[best.index(criterion.name)]
            axes.plot(kept, values, color=colour, lw=1.8, marker="o", ms=3.5, zorder=3)
            handles.append(key(colour, criterion.name, line=True))
        else:
            axes.plot(kept, values, color=GREY, lw=0.9, zorder=2)
    if len(analysis.criteria) > len(best):
        handles.append(key(GREY, "other criteria", "", line=True))
    for rotation in analysis.rotations:
        colour = ROTATION_COLOURS.get(rotation.kind, BLACK)
        axes.plot(rotation.num_kept, rotation.psnr_db, color=colour, lw=1.8, ls="--", marker="D",
                  ms=3.5, zorder=3)  # fmt: skip
        handles.append(key(colour, f"rotation {rotation.kind}", "D", line=True))
    axes.axhline(analysis.psnr_db, color=BLACK, lw=0.9, ls=":")
    if recommendation is not None:
        axes.plot(recommendation.num_kept, recommendation.psnr_db, "o", ms=13, mfc="none",
                  mec=BLACK, mew=1.6, zorder=4)  # fmt: skip
        handles.append(key(BLACK, "recommended", "o", hollow=True))
    axes.set_title("PSNR of reconstructions, dB")
    axes.set_xlabel("channels kept (dotted: all)")
    if len(counts) > 1:
        axes.set_xlim(min(counts), max(counts))
    legend(figure, handles, columns=2)
    return figure


def best_criteria(analysis: Analysis) -> list[str]:
    """The few criteria with the highest mean PSNR over the curve, best first."""
    means = {
        c.name: float(np.mean([point.psnr_db for point in c.curve])) for c in analysis.criteria
    }
    return sorted(means, key=lambda name: -means[name])[: len(HIGHLIGHTED)]


def draw_channels(analysis: Analysis) -> Figure:
    """What leaving out each channel costs, beside its variance; most important first."""
    order = importance_order(analysis)
    channels = [analysis.channels[index] for index in order]
    figure = new_figure(max(2.6, 0.22 * len(order) + 1.2))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    places = np.arange(len(order))
    mean = [one.leave_one_out_db for one in channels]
    linear = [one.leave_one_out_linear_db for one in channels]
    left.hlines(places, linear, mean, color="#cccccc", lw=2)
    left.plot(mean, places, "o", color=VERMILLION, ms=5)
    left.plot(linear, places, "o", color=BLUE, ms=5)
    left.set_title("PSNR lost without it, dB")
    right.barh(places, [one.energy for one in channels], color=GREY, height=0.65)
    right.set_title("variance")
    left.set_yticks(places, [str(one.channel) for one in channels])
    left.set_ylabel("channel")
    left.set_ylim(len(order) - 0.4, -0.6)
    handles = [key(VERMILLION, "its mean in its place"),
               key(BLUE, "predicted from the others")]  # fmt: skip
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
    values = np.clip(np.asarray(analysis.eigenvalues), 1e-12, None)
    left.plot(range(1, len(values) + 1), values / values.sum(), color=BLUE, marker="o", ms=4)
    if values.max() > 10 * values.min():
        left.set_yscale("log")
    left.set_title("share of the variance")
    left.set_xlabel("eigenvector")
    right.bar(range(len(values)), [one.r2 for one in analysis.channels], color=BLUE)
    right.set_ylim(0, 1)
    right.set_title("R² from the others")
    right.set_xlabel("channel")
    return figure


def draw_matrices(analysis: Analysis) -> Figure:
    """The decoder's metric M beside the correlation of the latents."""
    figure = new_figure(2.9)
    left, right = figure.subplots(1, 2)
    metric = np.asarray(analysis.decoder_metric)
    covariance = np.asarray(analysis.moments.covariance)
    spread = np.sqrt(np.clip(np.diag(covariance), 1e-24, None))
    for axes, matrix, title in (
        (left, metric, "decoder's metric M"),
        (right, covariance / np.outer(spread, spread), "correlation"),
    ):
        limit = float(np.abs(matrix).max()) or 1.0
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(image, ax=axes, shrink=0.7)
        axes.set_title(title)
        axes.grid(False)
    return figure


def draw_agreement(analysis: Analysis) -> Figure:
    """Kendall's τ of each two criteria."""
    names = analysis.agreement.names
    tau = np.asarray([[np.nan if v is None else v for v in row] for row in analysis.agreement.tau])
    figure = new_figure(0.33 * len(names) + 1.6)
    axes = figure.subplots()
    _heat(axes, tau, "RdBu_r", -1, 1, "{:.1f}")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Kendall's τ")
    return figure


def draw_taylor(analysis: Analysis) -> Figure:
    """What the denoiser uses of each channel, by band of timesteps."""
    values = np.asarray([one.taylor for one in analysis.channels], dtype=float).T  # (bands, C)
    figure = new_figure(0.4 * len(values) + 1.4)
    axes = figure.subplots()
    share = values / np.clip(values.sum(axis=1, keepdims=True), 1e-30, None)
    _heat(axes, share, "Blues", 0, float(share.max()) or 1.0, None)
    axes.set_yticks(range(len(values)), [f"{a} to {b}" for a, b in analysis.timestep_bands])
    axes.set_xlabel("channel")
    axes.set_title("share of the denoiser's loss gradient, by timestep")
    return figure


def draw_classes(analysis: Analysis) -> Figure:
    """What leaving out each channel costs in each class."""
    rows = _by_class(analysis)
    figure = new_figure(0.22 * len(rows) + 1.5)
    axes = figure.subplots()
    values = np.asarray([row for _, row in rows])
    _heat(axes, values, "Blues", 0, max(float(np.nanmax(values)), 1e-9), None)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel("channel")
    axes.set_title("PSNR lost without the channel, dB")
    figure.colorbar(axes.images[0], ax=axes, shrink=0.8)
    return figure


def _by_class(analysis: Analysis) -> list[tuple[str, Sequence[float]]]:
    rows = []
    for index, name in enumerate(analysis.class_names[:30]):
        found = [(one.leave_one_out_db_by_class or [])[index] for one in analysis.channels]
        rows.append((name, [np.nan if value is None else value for value in found]))
    return rows


def _heat(
    axes: Axes, values: np.ndarray, colours: str, low: float, high: float, text: str | None
) -> None:
    axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.grid(False)
    if text is None or max(values.shape) > MOST_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(value - (low + high) / 2) > 0.35 * (high - low)
            colour = "white" if dark else "black"
            axes.text(
                column, row, text.format(value), ha="center", va="center", size=7, color=colour
            )
