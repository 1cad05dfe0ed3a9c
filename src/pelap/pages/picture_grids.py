"""The figures that show pictures: reconstructions and samples."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.pages.canvas import WIDTH, label_of, new_figure
from pelap.pages.reported_run import ReportedRun


def draw_reconstructions(runs: Sequence[ReportedRun], most: int = 8) -> Figure:
    """Strips of pictures: the original, then each run without and through the mask."""
    strips = _strips(runs, most)
    tall = (WIDTH - 0.1) / strips[0][1].shape[0]
    figure = new_figure((tall + 0.27) * len(strips) + 0.1)
    for axes, (title, pictures) in zip(
        np.atleast_1d(figure.subplots(len(strips), 1)), strips, strict=True
    ):
        _show(axes, pictures, columns=len(pictures))
        axes.set_title(title, size=10, pad=3)
    return figure


def _strips(runs: Sequence[ReportedRun], most: int) -> list[tuple[str, np.ndarray]]:
    """Titles and pictures; the originals again wherever they differ from those above."""
    strips: list[tuple[str, np.ndarray]] = []
    shown = None
    for run in runs:
        originals = run.pictures["originals"][:most]
        if shown is None or not np.array_equal(shown, originals):
            strips.append(("original", originals))
            shown = originals
        plain_title = "without the mask" if run.has_gate else "no mask"
        strips.append((f"{label_of(run)}: {plain_title}", run.pictures["reconstructions"][:most]))
        if run.has_gate:
            masked = run.pictures["masked_reconstructions"][:most]
            strips.append((f"{label_of(run)}: through the mask", masked))
    return strips


def draw_samples(run: ReportedRun, most: int = 64) -> Figure:
    """A grid of the run's samples."""
    samples = run.pictures["samples"][:most]
    columns = min(8, max(1, int(np.ceil(np.sqrt(len(samples))))))
    rows = -(-len(samples) // columns)
    figure = new_figure(WIDTH * rows / columns)
    _show(figure.subplots(), samples, columns)
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
