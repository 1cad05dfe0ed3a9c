"""The builder of every page: sections of text, tables and figures in, one self-contained file out.

A page and its figures are rendered before the first file is written, and each file appears whole.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

import pelap
from pelap.core.files import write_whole
from pelap.pages.canvas import DPI, Drawing, drawing


@dataclass(frozen=True)
class Text:
    """A paragraph; `look` is a class of the style sheet, such as lead, note or command."""

    text: str
    look: str = ""


@dataclass(frozen=True)
class Items:
    """A list; with a label for screen readers, a row of chips."""

    items: Sequence[object]
    chips: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture in a table, shown in CSS pixels `side` wide; small ones keep their pixels crisp."""

    png: bytes
    side: int
    alt: str
    is_crisp: bool = False


@dataclass(frozen=True)
class Cell:
    """A table's cell; notes stand below its text, smaller, and the best of a column is bold."""

    text: str
    notes: tuple[str, ...] = ()
    best: bool = False
    picture: "Picture | None" = None
    """Above the text."""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row names it."""

    header: list[str]
    rows: list[list[Cell]]
    look: str = ""


@dataclass(frozen=True)
class Card:
    """A figure on the page, and as a file."""

    name: str
    """File name without ending."""
    title: str
    caption: str
    alt: str
    image: Drawing
    narrow: Drawing | None = None
    """The same for narrow screens, on the page alone."""

    @property
    def size(self) -> tuple[int, int]:
        """CSS pixels, width and height, at which the figure's type has its own size."""
        return round(self.image.width * 96 / DPI), round(self.image.height * 96 / DPI)


@dataclass(frozen=True)
class PartGroup:
    """Parts under a title of their own: in a frame, or folded until one asks for them."""

    title: str
    parts: Sequence["Part"]
    folded: bool = False


Part = Text | Items | Table | Card | PartGroup


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]


def text_table(header: list[str], rows: Sequence[Sequence[str]], look: str = "") -> Table:
    """A table whose cells hold nothing but text."""
    return Table(header, [[Cell(text) for text in row] for row in rows], look)


def draw_card(name: str, title: str, caption: str, alt: str, draw: Callable[[], Figure]) -> Card:
    """A card with its figure drawn in the report's style."""
    return Card(name, title, caption, alt, drawing(draw))


def write_page(
    path: Path, kind: str, title: str, head: Sequence[Part], sections: Sequence[Section]
) -> Path:
    """Write a page, and every figure on it as figures/*.png beside it.

    Args:
        path: The page; its folder is made if need be.
        kind: What the browser's tab calls the page before its title, e.g. `report`.
        title: Heading of the page.
        head: What stands below the heading.
        sections: The rest; one without parts is left out.

    Returns:
        `path`.
    """
    environment = Environment(
        loader=PackageLoader("pelap.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"uri": _uri, "kind": lambda part: type(part).__name__}
    shown = [section for section in sections if section.parts]
    page = environment.get_template("page.html.j2").render(
        kind=kind, title=title, head=head, sections=shown, version=pelap.__version__
    )
    figures = path.parent / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for card in _cards(part for section in shown for part in section.parts):
        write_whole(figures / f"{card.name}.png", card.image.png)
    write_whole(path, page.encode())
    return path


def _uri(image: Drawing | Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(image.png).decode("ascii")


def _cards(parts: "Iterator[Part] | Sequence[Part]") -> Iterator[Card]:
    for part in parts:
        if isinstance(part, Card):
            yield part
        elif isinstance(part, PartGroup):
            yield from _cards(part.parts)
