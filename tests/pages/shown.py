"""What a figure shows, as its reader would say it."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from pelap.pages.canvas import STYLE


def styled(draw: Callable[[], Figure]) -> Figure:
    """A figure in the report's style, drawn once so that ticks and labels have their places."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        figure.draw_without_rendering()
    return figure


def titles(figure: Figure) -> list[str]:
    """Of its panels, where they have one."""
    return [title for axes in figure.axes if (title := axes.get_title(loc="left"))]


def entries(figure: Figure) -> list[str]:
    """Of the legends above the panels."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def texts(axes: Axes) -> list[str]:
    """Words and numbers written into a panel."""
    return [text.get_text() for text in axes.texts if text.get_text()]


def curves(axes: Axes, marker: str | None = None) -> list[tuple[list[float], list[float]]]:
    """x and y of the lines of a panel, all or those with one marker."""
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
        if marker is None or line.get_marker() == marker
    ]


def heights(axes: Axes) -> list[float]:
    """Of the bars of a panel that stand."""
    return [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]


def lengths(axes: Axes) -> list[float]:
    """Of the bars of a panel that lie."""
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def numbers_of(axes: Axes) -> np.ndarray:
    """What a heat map or a picture holds; NaN where it is empty."""
    values = np.ma.asarray(axes.images[0].get_array())
    return np.asarray(values.filled(np.nan)) if values.dtype.kind == "f" else np.asarray(values)


def words_of(labels: Sequence[Text]) -> list[str]:
    """What stands beside an axis, or in a legend."""
    return [label.get_text() for label in labels]
