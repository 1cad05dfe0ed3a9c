"""The figures of runs. Each function draws one; canvas.py holds their style."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pelap.pages import canvas, numbers
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
BARS = (
    ("diffusion_loss", "with the latent", canvas.BLUE),
    ("zero_latent_diffusion_loss", "same denoiser, zeros in the latent's place", canvas.ORANGE),
    (
        "gaussian_diffusion_loss",
        "best linear predictor for Gaussian latents this size",
        canvas.GREY,
    ),
)


def draw_training_curves(runs: Sequence[ReportedRun]) -> Figure:
    """Small multiples of the losses and the mean mask against epochs, all runs in each."""
    height = 1.3 * len(CURVES) + 0.25 * len(runs) + 0.6
    figure, panels = canvas.new_panels(height, len(CURVES), sharex=True)
    for axes, (name, title) in zip(panels, CURVES.items(), strict=True):
        shown = []
        for place, run in enumerate(runs):
            colour, marker = canvas.look_of(place)
            thin: canvas.Look = {"lw": 0.8, "alpha": 0.55}
            bold: canvas.Look = {"lw": 2.2, "marker": marker, "ms": 5}
            for lines, style in ((run.train, thin), (run.validation, bold)):
                measured = [line for line in lines if line.get(name) is not None]
                values = [float(np.mean(line[name])) for line in measured]
                every, epochs = max(1, len(values) // 12), [line["epoch"] for line in measured]
                if values:
                    axes.plot(epochs, values, color=colour, markevery=every, **style)
                shown += values
        axes.set_title(title)
        canvas.scale_values(axes, shown)
    panels[-1].set_xlabel("epoch (bold: validation, thin: training)")
    canvas.legend(figure, canvas.keys_of(map(_label, runs)))
    return figure


def _label(run: ReportedRun) -> str:
    """A run's name and kind, short enough for a figure."""
    return canvas.plain(run.label) + run.title.removeprefix(run.label)


def draw_importance_by_class(run: ReportedRun) -> Figure:
    """Mean mask of each class and channel; the colour is the cube root, 0 to 1 in every run."""
    names, values = classes_to_show(run)
    num_classes, num_channels = values.shape
    figure, (axes,) = canvas.new_panels(0.9 + 0.27 * num_classes)
    scale = PowerNorm(1 / 3, 0, 1)
    picture = axes.imshow(values, cmap="cividis", norm=scale, aspect="auto")
    axes.set_yticks(range(num_classes), [canvas.plain(name, 18) for name in names])
    axes.set_xticks(range(num_channels))
    axes.set_xlabel("channel")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values) if num_channels <= 8 else ():
        colour = "white" if scale(value) < 0.55 else "black"
        cell = axes.text(column, row, numbers.mask(value), ha="center", color=colour, size=9)
        cell.set_verticalalignment("center")
    bar = figure.colorbar(picture, ax=axes, ticks=[0, 0.001, 0.01, 0.1, 0.3, 1], pad=0.02)
    canvas.plain_numbers(bar.ax.yaxis)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("mean mask")
    return figure


def classes_to_show(run: ReportedRun) -> tuple[list[str], np.ndarray]:
    """Names and masks (classes, channels); of many those furthest from the mean."""
    by_class = run.evaluation.mask_mean_by_class
    names, values = list(by_class), np.array(list(by_class.values()), dtype=float)
    if len(names) > MAX_CLASSES:
        distance = np.abs(values - values.mean(axis=0)).mean(axis=1)
        kept = np.sort(np.argsort(-distance, kind="stable")[:MAX_CLASSES])
        names, values = [names[i] for i in kept], values[kept]
    return names, values


def draw_mask_histograms(run: ReportedRun) -> Figure:
    """Share of the pictures at each value of the mask, one panel a channel."""
    histogram = run.evaluation.mask_histogram
    edges, num_channels = np.array(histogram.bin_edges), len(histogram.counts)
    columns = 1 if num_channels == 1 else 2 if num_channels <= 16 else 4
    rows = -(-num_channels // columns)
    figure, panels = canvas.new_panels(0.5 + 1.25 * rows, rows, columns, sharex=True, sharey=True)
    for axes in panels[num_channels:]:
        axes.set_visible(False)
    for channel, (axes, found) in enumerate(zip(panels, histogram.counts, strict=False)):
        shares = 100 * np.array(found) / max(sum(found), 1)
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge", color=canvas.BLUE, linewidth=0)
        mean = numbers.mask(run.evaluation.mask_mean[channel])
        axes.set_title(f"channel {channel}: mean {mean}" if columns < 4 else f"{channel}: {mean}")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 105)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    figure.supxlabel("mask", size=10)
    figure.supylabel("share of the pictures (%)", size=10)
    return figure


def draw_sparsity_comparison(runs: Sequence[ReportedRun]) -> Figure:
    """Losses and mean mask against λ as categories, the baseline first where there is one."""
    weights = {run.sparsity_weight: f"{run.sparsity_weight:g}" for run in runs if run.has_gate}
    names = [weights[weight] for weight in sorted(weights)]
    names = names if all(run.has_gate for run in runs) else ["baseline", *names]
    x = [names.index(weights[run.sparsity_weight] if run.has_gate else "baseline") for run in runs]
    label_values = len(names) <= 4 and len(set(x)) == len(x)
    figure, panels = canvas.new_panels(6.6, 3, sharex=True)
    for axes, (title, form, (solid, label), (hollow, other)) in zip(panels, PAIRS, strict=False):
        first = [getattr(run.evaluation, solid) for run in runs]
        second = [getattr(run.evaluation, hollow) for run in runs]
        written = form if label_values else None
        _dots(axes, [i - 0.09 for i in x], first, canvas.BLUE, written, "right")
        _dots(axes, [i + 0.09 for i in x], second, canvas.VERMILLION, written, "left")
        canvas.scale_values(axes, first + second, labelled=True)
        axes.set_title(title, pad=20)
        handles = [
            canvas.key(canvas.BLUE, label),
            canvas.key(canvas.VERMILLION, other, "s", hollow=True),
        ]
        above = axes.legend(handles=handles, ncols=2, borderaxespad=0, loc="lower left")
        above.set_bbox_to_anchor((-0.02, 0.98), transform=axes.transAxes)
    last, masks = panels[2], [run.mean_mask for run in runs]
    _dots(last, x, masks, canvas.GREEN, numbers.mask if label_values else None, "center")
    canvas.scale_values(last, masks, labelled=True)
    low, high = last.get_ylim()
    last.set_yticks([tick for tick in last.get_yticks() if low <= tick <= min(1, high)])
    last.set_title("mean mask")
    canvas.category_ticks(last, names)
    last.set_xlabel("weight λ of the sparsity loss")
    for axes in panels:
        axes.grid(False, axis="x")
    return figure


def _dots(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    colour: str,
    form: Callable[[float], str] | None,
    side: str,
) -> None:
    """Filled circles, or hollow squares for the right one of two series, with their values."""
    marker, face = ("s", "white") if side == "left" else ("o", colour)
    axes.plot(x, y, marker, color=colour, mfc=face, ms=7, mew=1.8)
    shift = {"right": 4, "left": -4, "center": 0}[side]
    look: canvas.Look = {"ha": side, "va": "bottom", "color": colour}
    for place, value in zip(x, y, strict=True):
        if form and math.isfinite(value):
            canvas.write_beside(axes, form(value), (place, value), (shift, 6), **look)


def draw_denoiser_and_latent(runs: Sequence[ReportedRun]) -> Figure:
    """Three bars a run: the loss with the latent, with zeros, and of the best linear predictor."""
    figure, (axes,) = canvas.new_panels(1.3 + 0.95 * len(runs))
    for index, run in enumerate(runs):
        top = 4.6 * index
        axes.text(0, top - 0.95, _label(run), weight="bold", va="center")
        for place, (name, _, colour) in enumerate(BARS):
            value = getattr(run.evaluation, name)
            axes.barh(top + place, value, height=0.86, color=colour)
            canvas.write_beside(
                axes, numbers.loss(value), (value, top + place), (4, 0), va="center"
            )
    axes.set_ylim(4.6 * len(runs) - 1.5, -1.6)
    values = [getattr(run.evaluation, name) for run in runs for name, *_ in BARS]
    axes.set_xlim(0, 1.16 * max(filter(math.isfinite, values), default=1))
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    canvas.plain_numbers(axes.xaxis)
    axes.set_xlabel("squared error of the predicted noise (1 = predicting zero)")
    canvas.legend(figure, [canvas.key(colour, label, "s") for _, label, colour in BARS])
    return figure


def draw_latent_std(runs: Sequence[ReportedRun]) -> Figure:
    """Standard deviation of each channel before and after the mask, beside unit noise."""
    heights = [0.55 + 0.24 * len(run.evaluation.mask_mean) for run in runs]
    figure, panels = canvas.new_panels(
        1 + sum(heights), len(runs), sharex=True, height_ratios=heights
    )
    hollow: canvas.Look = {"mfc": "white", "mew": 1.8}
    for run, axes in zip(runs, panels, strict=True):
        before = np.maximum(run.evaluation.latent_std, 1e-5)
        after = np.maximum(run.evaluation.masked_latent_std, 1e-5)
        channels = np.arange(len(before))
        axes.axvline(1, color=canvas.GREY, linestyle="--", linewidth=1.4)
        axes.hlines(channels, after, before, color=canvas.GREY, linewidth=1.4)
        axes.plot(before, channels, "o", color=canvas.BLUE, markersize=7)
        if run.has_gate:
            axes.plot(after, channels, "s", color=canvas.VERMILLION, **hollow)
        axes.set_xscale("log")
        canvas.channel_rows(axes, range(len(before)), every=1 if len(before) <= 16 else 4)
        axes.set_title(_label(run))
        canvas.plain_numbers(axes.xaxis)
    panels[-1].set_xlabel("standard deviation (dashed: the noise at full strength)")
    entries = [canvas.key(canvas.BLUE, "before the mask")]
    if any(run.has_gate for run in runs):
        entries.append(canvas.key(canvas.VERMILLION, "after the mask", "s", hollow=True))
    canvas.legend(figure, entries, columns=2)
    return figure


def draw_reconstructions(runs: Sequence[ReportedRun], most: int = 8) -> Figure:
    """Strips of pictures: the original, then each run without and through the mask.

    The originals come again wherever they differ from those above.
    """
    strips: list[tuple[str, np.ndarray]] = []
    shown = None
    for run in runs:
        kinds = {"without the mask" if run.has_gate else "no mask": "reconstructions"}
        if run.has_gate:
            kinds["through the mask"] = "masked_reconstructions"
        originals = run.pictures["originals"][:most]
        if shown is None or not np.array_equal(shown, originals):
            strips.append(("original", originals))
            shown = originals
        strips += [(f"{_label(run)}: {n}", run.pictures[k][:most]) for n, k in kinds.items()]
    tall = (canvas.WIDTH - 0.1) / strips[0][1].shape[0]
    figure, panels = canvas.new_panels((tall + 0.27) * len(strips) + 0.1, len(strips))
    for axes, (title, pictures) in zip(panels, strips, strict=True):
        _show(axes, pictures, columns=len(pictures))
        axes.set_title(title, size=10, pad=3)
    return figure


def draw_samples(run: ReportedRun, most: int = 64) -> Figure:
    """A grid of the run's samples."""
    samples = run.pictures["samples"][:most]
    columns = min(8, max(1, int(np.ceil(np.sqrt(len(samples))))))
    figure, (axes,) = canvas.new_panels(canvas.WIDTH * -(-len(samples) // columns) / columns)
    _show(axes, samples, columns)
    return figure


def _show(axes: Axes, pictures: np.ndarray, columns: int) -> None:
    """Pictures (N, H, W, 3) in rows of so many, a white gap between them."""
    num, height, width, _ = pictures.shape
    gap = max(1, width // 24)
    rows = -(-num // columns)
    tiles = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        tiles[top : top + height, left : left + width] = picture
    axes.imshow(tiles)
    axes.set_axis_off()
