"""A grid of pictures with a title, a caption a column and a label a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

SIDE = 160
"""Of a picture as shown, in pixels; small ones are enlarged by whole factors."""
GAP, MARGIN, LABEL = 8, 16, 84
TEXT, SMALL, LINE = 17, 13, 17
"""Sizes of type, and the height of a line of the small one."""
INK, FAINT, PAPER = "#222222", "#6b6b6b", "#ffffff"
MOST_LINES = 3


@dataclass(frozen=True)
class Row:
    """Pictures of one model."""

    label: str
    pictures: Sequence[Image.Image]


def grid_picture(title: str, captions: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """Draw the grid.

    Args:
        title: Above all.
        captions: Of the columns; empty ones take no room.
        rows: With a picture a column each, all of one size.
    """
    large, small = _font(TEXT), _font(SMALL)
    pictures = [[_fitted(picture) for picture in row.pictures] for row in rows]
    width, height = pictures[0][0].size
    wrapped = [_wrap(caption, small, width) for caption in captions]
    head = MARGIN + TEXT + 12
    top = head + LINE * max(map(len, wrapped)) + (GAP if any(wrapped) else 0)
    columns = len(captions)
    whole = (
        MARGIN + LABEL + columns * (width + GAP) - GAP + MARGIN,
        top + len(rows) * (height + GAP) - GAP + MARGIN,
    )
    canvas = Image.new("RGB", whole, PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, INK, large)
    for column, lines in enumerate(wrapped):
        left = MARGIN + LABEL + column * (width + GAP)
        start = head + LINE * (max(map(len, wrapped)) - len(lines))  # they stand on the pictures
        for place, line in enumerate(lines):
            pen.text((left + width / 2, start + place * LINE), line, FAINT, small, anchor="ma")
    for place, (row, shown) in enumerate(zip(rows, pictures, strict=True)):
        up = top + place * (height + GAP)
        pen.text((MARGIN, up + height / 2), row.label, INK, small, anchor="lm")
        for column, picture in enumerate(shown):
            canvas.paste(picture, (MARGIN + LABEL + column * (width + GAP), up))
    return canvas


def _fitted(picture: Image.Image) -> Image.Image:
    picture = picture.convert("RGB")
    longest = max(picture.size)
    if longest > SIDE:
        scale = SIDE / longest
        sides = (round(picture.width * scale), round(picture.height * scale))
        return picture.resize(sides, Image.Resampling.LANCZOS)
    factor = SIDE // longest
    sides = (picture.width * factor, picture.height * factor)
    return picture.resize(sides, Image.Resampling.NEAREST)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines that fit, shortened where it takes too many."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]} …"]
    return [_shortened(line, font, width) for line in lines]


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while font.getlength(line) > width and len(line) > 2:
        line = line.rstrip("…")[:-1] + "…"
    return line


def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)
