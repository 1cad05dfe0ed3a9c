"""Heat maps about an analysis: each function takes it and gives a figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import NullLocator

from pelap.analysis.analysis_record import Analysis
from pelap.pages.canvas import new_panels, plain, whole_numbers
from pelap.pages.numbers import ABSENT, signed

MOST_NUMBERS = 12
"""Sides of a heat map up to which its cells are labelled."""
MOST_CLASSES = 30


def draw_matrices(analysis: Analysis) -> Figure:
    """The decoder's metric M beside the correlation of the latents."""
    figure, (left, right) = new_panels(3.5, 1, 2)
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
        whole_numbers(axes.yaxis)
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=26, pad=0.03)
        bar.set_ticks([-limit, 0, limit], labels=[signed(v, ".2g") for v in (-limit, 0, limit)])
    return figure


def draw_agreement(analysis: Analysis) -> Figure:
    """Kendall's τ of each two criteria."""
    names = [plain(name) for name in analysis.agreement.names]
    tau = np.asarray(analysis.agreement.tau, dtype=float)
    figure, (axes,) = new_panels(0.33 * len(names) + 1.6)
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
    figure, (axes,) = new_panels(0.42 * len(values) + 1.5)
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
    figure, (axes,) = new_panels(0.22 * len(rows) + 1.5)
    values = np.asarray(list(rows.values()))
    norm = Normalize(min(0.0, float(values.min())), max(float(values.max()), 1e-9))
    image = _by_channel(axes, values, "Blues", norm)
    axes.set_yticks(range(len(rows)), [plain(name, 20) for name in rows])
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
    whole_numbers(axes.xaxis)
    axes.set_xlabel("channel")
    return _heat(axes, values, colours, norm)


def _heat(axes: Axes, values: np.ndarray, colours: str, norm: Normalize) -> AxesImage:
    axes.grid(False)
    return axes.imshow(values, cmap=colours, norm=norm, aspect="auto")
