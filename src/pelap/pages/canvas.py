"""What all figures share: style, colours, text that matplotlib cannot misread, PNG out.

Figures are five inches wide with type of 9 points and more, so that they stay legible at the width
of a phone. No pyplot: a figure is an object, drawn on the Agg canvas.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDTH = 5.0
"""Inches."""
DPI = 240

# Okabe and Ito's palette for every kind of colour vision, without its yellow (too pale on white).
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#999999"
RUN_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
RUN_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Look = dict[str, Any]
"""Keyword arguments of matplotlib's artists."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": None,
    "text.usetex": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure as a PNG file; width and height in pixels."""

    png: bytes
    width: int
    height: int


def drawing(draw: Callable[[], Figure]) -> Drawing:
    """Draw in the report's style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        buffer = io.BytesIO()
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(buffer, metadata={"Software": None})
        width, height = canvas.get_width_height()
    return Drawing(buffer.getvalue(), width, height)


def new_panels(
    height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH, **grid: Any
) -> tuple[Figure, list[Axes]]:
    """An empty figure, its sides in inches, and its panels row by row; `grid` as for subplots."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid).flatten().tolist()


def plain(text: str, limit: int = 28) -> str:
    """Text that matplotlib draws letter by letter: no maths, no glyph that its font lacks."""
    glyph = _glyph_finder()
    kept = "".join(c if c.isprintable() and glyph(ord(c)) else "?" for c in text)
    short = kept if len(kept) <= limit else kept[: limit - 1] + "…"
    # A leading underscore would hide a legend's entry.
    return (" " + short if short.startswith("_") else short).replace("$", r"\$")


@cache
def _glyph_finder() -> Callable[[int], int]:
    return get_font(findfont("DejaVu Sans")).get_char_index


def key(
    colour: str, label: str, marker: str = "o", hollow: bool = False, line: bool = False
) -> Line2D:
    """An entry of a legend."""
    face, width = "white" if hollow else colour, 2 if line else 0
    look: Look = {"marker": marker, "markersize": 6, "markeredgewidth": 1.6}
    return Line2D([], [], color=colour, label=label, mfc=face, linewidth=width, **look)


def keys_of(labels: Iterable[str]) -> list[Line2D]:
    """Entries for runs or series with the looks of their places."""
    looks = ((look_of(place), label) for place, label in enumerate(labels))
    return [key(colour, label, marker, line=True) for (colour, marker), label in looks]


def write_beside(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    shift: tuple[float, float],
    size: float = 9,
    **style: Any,
) -> None:
    """A value beside its bar or point, shifted by so many points of 1/72 inch."""
    axes.annotate(text, place, shift, textcoords="offset points", size=size, **style)


def legend(figure: Figure, handles: Sequence[Line2D], columns: int = 1) -> None:
    """A legend above the panels."""
    figure.legend(
        handles=list(handles), loc="outside upper left", ncols=columns, handlelength=1.6,
        borderaxespad=0.2, columnspacing=1.2,
    )  # fmt: skip


def look_of(place: int) -> tuple[str, str]:
    """Colour and marker of the run or series at this place; they repeat after seven."""
    return RUN_COLOURS[place % len(RUN_COLOURS)], RUN_MARKERS[place % len(RUN_MARKERS)]


def plain_numbers(axis: Axis) -> None:
    """Ticks as plain numbers and none between them, on a logarithmic axis too."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone: channels, or how many of them."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def scale_values(axes: Axes, values: Sequence[float], labelled: bool = False) -> None:
    """Log scale if the values span more than a decade, else linear; plain numbers as ticks.

    With `labelled`, a linear scale begins at zero and there is room for text above the points.
    """
    positive = [value for value in values if np.isfinite(value) and value > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    decades = np.log10(high / low)
    if decades > 1:
        axes.set_yscale("log", nonpositive="mask")
        subs = (1, 3) if decades < 3 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=7))
        axes.set_ylim(low / 1.6, high * (1 + decades if labelled else 1.6))
    elif labelled:
        axes.set_ylim(0, high * 1.35)
    elif high / low < 1.001:
        axes.set_ylim(low * 0.9, high * 1.1)
    plain_numbers(axes.yaxis)


def channel_rows(axes: Axes, names: Sequence[int], every: int = 1) -> None:
    """One row a channel at 0, 1, 2 …, the first on top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(0, len(names), every), [str(name) for name in names[::every]])
    axes.set_ylabel("channel")


def category_ticks(axes: Axes, labels: Sequence[str]) -> None:
    """One tick for each category at 0, 1, 2 …; no grid across them."""
    axes.xaxis.set_major_locator(FixedLocator(range(len(labels))))
    axes.set_xticklabels(labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.grid(False, axis="x")
