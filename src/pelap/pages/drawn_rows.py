"""The same prompts and seeds by several models: a table of pictures, and its means in words."""

import io

import numpy as np
from PIL import Image

from pelap.measure.side_by_side_record import Difference, DrawnColumn, SideBySide
from pelap.pages.numbers import significant
from pelap.pages.page import Cell, Picture, Section, Table, Text

SHOWN = 168
"""CSS pixels, about, that a picture is wide on the page."""
MOST = 2 * SHOWN
"""Pixels of a picture on the page; larger ones are made smaller."""


def rows_section(drawn: SideBySide) -> Section:
    """A row a prompt, a column a model, the means in the last row."""
    reference = drawn.columns[0]
    header = ["", *(column.name for column in drawn.columns)]
    header[1] += " (reference)" if len(drawn.columns) > 1 else ""
    rows = [
        [Cell(title), *(_cell(drawn, column, place) for column in drawn.columns)]
        for place, title in enumerate(drawn.rows)
    ]
    if len(drawn.columns) > 1:
        others = [Cell(_words(column.mean), ("mean of the rows",)) for column in drawn.columns[1:]]
        rows.append([Cell("all rows"), Cell("–"), *others])
    return (
        Section("Side by side", [Table(header, rows, "drawn"), Text(_note(drawn), "note")])
        if reference.pictures
        else Section("Side by side", [])
    )


def describe_rows(drawn: SideBySide) -> list[str]:
    """For a terminal: the means of every model but the reference."""
    reference = drawn.columns[0].name
    between = ""
    if drawn.between_rows is not None:
        between = f"; {significant(drawn.between_rows)} between its own rows"
    return [
        f"{column.name} beside {reference}, {len(drawn.rows)} drawn pictures: "
        f"{_words(column.mean)}{between if column.mean and column.mean.features else ''}."
        for column in drawn.columns[1:]
    ]


def _cell(drawn: SideBySide, column: DrawnColumn, place: int) -> Cell:
    pixels, title = column.pictures[place], drawn.rows[place]
    text = _words(column.differences[place]) if column.differences else ""
    return Cell(text, picture=to_picture(pixels, f"{title}, by {column.name}"))


def to_picture(pixels: np.ndarray, alt: str) -> Picture:
    """A picture (H, W, 3) for the page: small ones a whole number of times as large."""
    width = pixels.shape[1]
    image = Image.fromarray(pixels)
    image.thumbnail((MOST, MOST))
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    is_small = width < SHOWN
    side = max(1, round(SHOWN / width)) * width if is_small else SHOWN
    return Picture(buffer.getvalue(), side, alt, is_small)


def _words(difference: Difference | None) -> str:
    """`21.4 dB, features 3.2 apart`."""
    if difference is None:
        return ""
    if difference.psnr_db is None:
        return "the same picture"
    text = f"{difference.psnr_db:.1f} dB".replace("-", "−")
    if difference.features is None:
        return text
    return f"{text}, features {significant(difference.features)} apart"


def _note(drawn: SideBySide) -> str:
    reference, *others = drawn.columns
    words = [f"Drawn by each model's own pipeline ({drawn.settings}), a row from the same seed."]
    words += [f"Noise of {column.name}: {column.noise}." for column in others if column.noise]
    if others:
        words.append(f"Below a picture: its PSNR against {reference.name}'s.")
    if others and drawn.extractor is not None:
        between = drawn.between_rows
        words.append(f"Features: Euclidean distance of those of {drawn.extractor}" + (
            "." if between is None else
            f"; {reference.name}'s pictures of different rows are {significant(between)} apart."
        ))  # fmt: skip
    return " ".join(words)
