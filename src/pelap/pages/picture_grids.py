"""The figures that show pictures: reconstructions and samples."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pelap.pages.canvas import WIDTH, label_of, new_panels
from pelap.pages.reported_run import ReportedRun


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
        strips += [(f"{label_of(run)}: {n}", run.pictures[k][:most]) for n, k in kinds.items()]
    tall = (WIDTH - 0.1) / strips[0][1].shape[0]
    figure, panels = new_panels((tall + 0.27) * len(strips) + 0.1, len(strips))
    for axes, (title, pictures) in zip(panels, strips, strict=True):
        _show(axes, pictures, columns=len(pictures))
        axes.set_title(title, size=10, pad=3)
    return figure


def draw_samples(run: ReportedRun, most: int = 64) -> Figure:
    """A grid of the run's samples."""
    samples = run.pictures["samples"][:most]
    columns = min(8, max(1, int(np.ceil(np.sqrt(len(samples))))))
    figure, (axes,) = new_panels(WIDTH * -(-len(samples) // columns) / columns)
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
