"""The figures that show numbers. Each function draws one; canvas.py holds their style."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pelap.pages import numbers
from pelap.pages.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    category_ticks,
    key,
    label_of,
    legend,
    look_of,
    new_figure,
    plain,
    plain_numbers,
    scale_values,
    write_beside,
)
from pelap.pages.reported_run import ReportedRun

MAX_CLASSES = 40
"""Classes shown in the heatmap."""
CURVES = {
    "total_loss": "total loss",
    "reconstruction_loss": "reconstruction (squared error per value)",
    "kl_loss": "KL",
    "diffusion_loss": "diffusion (squared error of the noise)",
    "mask_mean": "mean mask",
}


PAIRS = (
    (
        "diffusion loss",
        numbers.loss,
        ("diffusion_loss", "with the latent"),
        ("zero_latent_diffusion_loss", "with zeros in its place"),
    ),
    (
        "reconstruction (squared error summed over a picture)",
        numbers.squared_error,
        ("reconstruction_mse_sum", "without the mask"),
        ("masked_reconstruction_mse_sum", "through the mask"),
    ),
)
"""Measures that belong together: title, how to write them, and each one's name and meaning."""


def draw_training_curves(runs: Sequence[ReportedRun]) -> Figure:
    """Small multiples of the losses and the mean mask against epochs, all runs in each."""
    figure = new_figure(1.3 * len(CURVES) + 0.25 * len(runs) + 0.6)
    panels = figure.subplots(len(CURVES), 1, sharex=True)
    looks = [look_of(place) for place in range(len(runs))]
    for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
        shown = []
        for run, (colour, marker) in zip(runs, looks, strict=True):
            shown += _curve(axes, run.train, name, color=colour, lw=0.8, alpha=0.55)
            shown += _curve(axes, run.validation, name, color=colour, lw=2.2, marker=marker, ms=5)
        axes.set_title(title)
        scale_values(axes, shown)
    panels[-1].set_xlabel("epoch (bold: validation, thin: training)")
    handles = [
        key(colour, label_of(run), marker, line=True)
        for run, (colour, marker) in zip(runs, looks, strict=True)
    ]
    legend(figure, handles)
    return figure


def _curve(axes: Axes, lines: Sequence[dict[str, Any]], name: str, **style: Any) -> list[float]:
    """Draw one curve and return its values."""
    measured = [line for line in lines if line.get(name) is not None]
    values = [float(np.mean(line[name])) for line in measured]
    if values:
        every = max(1, len(values) // 12)
        axes.plot([line["epoch"] for line in measured], values, markevery=every, **style)
    return values


def draw_importance_by_class(run: ReportedRun) -> Figure:
    """Mean mask of each class and channel; the colour is the cube root, 0 to 1 in every run."""
    names, values = _classes_to_show(run)
    num_classes, num_channels = values.shape
    figure = new_figure(0.9 + 0.27 * num_classes)
    axes = figure.subplots()
    scale = PowerNorm(1 / 3, 0, 1)
    picture = axes.imshow(values, cmap="cividis", norm=scale, aspect="auto")
    axes.set_yticks(range(num_classes), [plain(name, 18) for name in names])
    axes.set_xticks(range(num_channels))
    axes.set_xlabel("channel")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if num_channels <= 8:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if scale(value) < 0.55 else "black"
            axes.text(
                column, row, numbers.mask(value), ha="center", va="center", color=colour, size=9
            )
    bar = figure.colorbar(picture, ax=axes, ticks=[0, 0.001, 0.01, 0.1, 0.3, 1], pad=0.02)
    plain_numbers(bar.ax.yaxis)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("mean mask")
    return figure


def _classes_to_show(run: ReportedRun) -> tuple[list[str], np.ndarray]:
    by_class = run.evaluation["mask_mean_by_class"]
    names, values = list(by_class), np.array(list(by_class.values()), dtype=float)
    if len(names) > MAX_CLASSES:
        distance = np.abs(values - values.mean(axis=0)).mean(axis=1)
        kept = np.sort(np.argsort(-distance, kind="stable")[:MAX_CLASSES])
        names, values = [names[i] for i in kept], values[kept]
    return names, values


def draw_mask_histograms(run: ReportedRun) -> Figure:
    """Share of the pictures at each value of the mask, one panel a channel."""
    histogram = run.evaluation["mask_histogram"]
    edges = np.array(histogram["bin_edges"], dtype=float)
    num_channels = len(histogram["counts"])
    columns = 1 if num_channels == 1 else 2 if num_channels <= 16 else 4
    rows = -(-num_channels // columns)
    figure = new_figure(0.5 + 1.25 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for channel, axes in enumerate(panels):
        if channel >= num_channels:
            axes.set_visible(False)
            continue
        counts = np.array(histogram["counts"][channel], dtype=float)
        shares = 100 * counts / max(counts.sum(), 1)
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=BLUE, linewidth=0)
        mean = numbers.mask(run.mask_mean[channel])
        axes.set_title(f"channel {channel}: mean {mean}" if columns < 4 else f"{channel}: {mean}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 105)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    figure.supxlabel("mask", size=10)
    figure.supylabel("share of the pictures (%)", size=10)
    return figure


def draw_sparsity_comparison(runs: Sequence[ReportedRun]) -> Figure:
    """Losses and mean mask against λ as categories, the baseline first where there is one."""
    weights = sorted({run.sparsity_weight for run in runs if run.has_gate})
    places = {f"{weight:g}": index for index, weight in enumerate(weights)}
    if not all(run.has_gate for run in runs):
        places = {"baseline": 0} | {name: index + 1 for name, index in places.items()}
    x = [places[f"{run.sparsity_weight:g}" if run.has_gate else "baseline"] for run in runs]
    label_values = len(places) <= 4 and len(set(x)) == len(x)
    figure = new_figure(6.6)
    panels = figure.subplots(3, 1, sharex=True)
    for axes, (title, form, (solid, label), (hollow, other)) in zip(panels, PAIRS, strict=False):
        first = [run.evaluation[solid] for run in runs]
        second = [run.evaluation[hollow] for run in runs]
        _dots(axes, [i - 0.09 for i in x], first, BLUE, label_values and form, "right")
        _dots(axes, [i + 0.09 for i in x], second, VERMILLION, label_values and form, "left")
        scale_values(axes, first + second, labelled=True)
        axes.set_title(title, pad=20)
        handles = [key(BLUE, label), key(VERMILLION, other, "s", hollow=True)]
        above = axes.legend(handles=handles, ncols=2, borderaxespad=0, loc="lower left")
        above.set_bbox_to_anchor((-0.02, 0.98), transform=axes.transAxes)
    masks = [run.mean_mask for run in runs]
    _dots(panels[2], x, masks, GREEN, label_values and numbers.mask, "center")
    scale_values(panels[2], masks, labelled=True)
    low, high = panels[2].get_ylim()
    panels[2].set_yticks([tick for tick in panels[2].get_yticks() if low <= tick <= min(1, high)])
    panels[2].set_title("mean mask")
    category_ticks(panels[2], list(places))
    panels[2].set_xlabel("weight λ of the sparsity loss")
    for axes in panels:
        axes.grid(False, axis="x")
    return figure


def _dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, form: Any, side: str
) -> None:
    """Filled circles, or hollow squares for the right one of two series, with their values."""
    hollow = side == "left"
    face = "white" if hollow else colour
    axes.plot(x, y, "s" if hollow else "o", color=colour, mfc=face, ms=7, mew=1.8)
    shift = {"right": 4, "left": -4, "center": 0}[side]
    for place, value in zip(x, y, strict=True):
        if form and math.isfinite(value):
            spot, above = (place, value), (shift, 6)
            write_beside(axes, form(value), spot, above, ha=side, va="bottom", color=colour)


def draw_denoiser_and_latent(runs: Sequence[ReportedRun]) -> Figure:
    """Three bars a run: the loss with the latent, with zeros, and of the best linear predictor."""
    bars = [
        ("diffusion_loss", "with the latent", BLUE),
        ("zero_latent_diffusion_loss", "same denoiser, zeros in the latent's place", ORANGE),
        ("gaussian_diffusion_loss", "best linear predictor for Gaussian latents this size", GREY),
    ]
    figure = new_figure(1.3 + 0.95 * len(runs))
    axes = figure.subplots()
    for index, run in enumerate(runs):
        top = 4.6 * index
        axes.text(0, top - 0.95, label_of(run), weight="bold", va="center")
        for place, (name, _, colour) in enumerate(bars):
            value = run.evaluation[name]
            axes.barh(top + place, value, height=0.86, color=colour)
            write_beside(axes, numbers.loss(value), (value, top + place), (4, 0), va="center")
    axes.set_ylim(4.6 * len(runs) - 1.5, -1.6)
    values = [run.evaluation[name] for run in runs for name, *_ in bars]
    axes.set_xlim(0, 1.16 * max(filter(math.isfinite, values), default=1))
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    plain_numbers(axes.xaxis)
    axes.set_xlabel("squared error of the predicted noise (1 = predicting zero)")
    legend(figure, [key(colour, label, "s") for _, label, colour in bars])
    return figure


def draw_latent_std(runs: Sequence[ReportedRun]) -> Figure:
    """Standard deviation of each channel before and after the mask, beside unit noise."""
    heights = [0.55 + 0.24 * len(run.mask_mean) for run in runs]
    figure = new_figure(1.0 + sum(heights))
    panels = figure.subplots(
        len(runs), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    ).flat
    for run, axes in zip(runs, panels, strict=True):
        before = np.maximum(np.array(run.evaluation["latent_std"], dtype=float), 1e-5)
        after = np.maximum(np.array(run.evaluation["masked_latent_std"], dtype=float), 1e-5)
        channels = np.arange(len(before))
        axes.axvline(1, color=GREY, linestyle="--", linewidth=1.4)
        axes.hlines(channels, after, before, color=GREY, linewidth=1.4)
        axes.plot(before, channels, "o", color=BLUE, markersize=7)
        if run.has_gate:
            axes.plot(
                after, channels, "s", color=VERMILLION, markerfacecolor="white", markeredgewidth=1.8
            )
        axes.set_xscale("log")
        axes.set_ylim(len(before) - 0.4, -0.6)
        every = 1 if len(before) <= 16 else 4
        axes.set_yticks(channels[::every])
        axes.set_ylabel("channel")
        axes.set_title(label_of(run))
        plain_numbers(axes.xaxis)
    panels[-1].set_xlabel("standard deviation (dashed: the noise at full strength)")
    entries = [key(BLUE, "before the mask")]
    if any(run.has_gate for run in runs):
        entries.append(key(VERMILLION, "after the mask", "s", hollow=True))
    legend(figure, entries, columns=2)
    return figure
