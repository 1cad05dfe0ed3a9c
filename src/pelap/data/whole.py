"""Which pictures are whole: others are left out, or refused. The same in every process, since it is
a function of the files and of nothing else."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pelap.core.cache import cache_folder
from pelap.core.digests import digest
from pelap.core.errors import ConfigError, DataError
from pelap.core.files import write_whole
from pelap.core.processes import process_index
from pelap.core.progress import ProgressBar
from pelap.data.decode import BrokenPictureError
from pelap.data.pictures import DecodedPictures, InMemoryPictures, in_threads

NUM_NAMED = 3
"""Broken pictures that a note names."""
Broken = list[BrokenPictureError]


def decode_whole(
    pictures: DecodedPictures, num: int, strict: bool
) -> tuple[InMemoryPictures, Broken]:
    """The first `num` whole pictures (or all, if there are fewer), decoded into memory now.

    Args:
        pictures: To choose from.
        num: Of the pictures.
        strict: Whether a broken picture is an error.

    Returns:
        The pictures, in their order, and the broken ones among them.

    Raises:
        DataError: If a picture is broken and `strict` is on, if one has the wrong size, or if none
            is whole.
    """
    size, rows = pictures.source.size, pictures.rows.tolist()
    pixels = np.empty((min(num, len(rows)), 3, size, size), np.uint8)

    def decode(slot: int, index: int) -> None:
        pixels[slot] = pictures.source.decode(rows[index]).transpose(2, 0, 1)

    def move(slot: int, origin: int) -> None:
        pixels[slot] = pixels[origin]

    kept, broken = _sift(len(rows), num, "Decoding pictures", decode, move, strict=strict)
    chosen = pictures.select(torch.tensor(kept))
    found = torch.from_numpy(pixels[: len(kept)])
    names, captions = pictures.class_names, chosen.captions
    return InMemoryPictures(chosen.labels, names, found, captions=captions), broken


def select_whole(
    pictures: DecodedPictures, num: int, strict: bool
) -> tuple[DecodedPictures, Broken]:
    """The same pictures as `decode_whole` takes, decoded again at each fetch.

    All are looked through now, and those that were whole are remembered while their files stay as
    they are.
    """
    source, rows = pictures.source, pictures.rows.tolist()
    if source.check is None or not rows:
        return pictures.select(slice(num)), []
    check, known = source.check, _KnownWhole(source.key(), source.size, max(rows) + 1)

    def look(_slot: int, index: int) -> None:
        row = rows[index]
        if not known.rows[row]:
            check(row)
            known.rows[row] = True

    try:
        kept, broken = _sift(len(rows), num, "Checking pictures", look, strict=strict)
    finally:
        known.save()
    return pictures.select(torch.tensor(kept)), broken


def describe_broken(broken: Broken, num: int) -> str:
    """How many of `num` pictures are left out, which, and why."""
    named = [f"{error.name} ({error.reason})" for error in broken[:NUM_NAMED]]
    if len(broken) > NUM_NAMED:
        named.append(f"{len(broken) - NUM_NAMED:,} more")
    return (
        f"{len(broken):,} of {num:,} pictures cannot be read and are left out: "
        f"{', '.join(named)}. --data.strict refuses them."
    )


def _sift(
    num: int,
    wanted: int,
    label: str,
    attempt: Callable[[int, int], None],
    move: Callable[[int, int], None] = lambda slot, origin: None,
    *,
    strict: bool,
) -> tuple[list[int], Broken]:
    """The first `wanted` of `num` pictures that are whole, by index, and the broken ones met.

    Args:
        num: Of the pictures.
        wanted: Of those that are whole.
        label: Stands before the progress bar.
        attempt: Is called with a slot below `wanted` and an index below `num`; raises
            BrokenPictureError.
        move: Puts into the first slot what lies in the second, where broken ones left gaps.
        strict: Whether BrokenPictureError goes on to the caller.
    """
    kept: list[int] = []
    broken: dict[int, BrokenPictureError] = {}
    start = 0
    with ProgressBar(label, min(wanted, num)) as bar:
        while len(kept) < wanted and start < num:
            first, end = len(kept), min(start + wanted - len(kept), num)

            def try_one(index: int, first: int = first, start: int = start) -> None:
                try:
                    attempt(first + index, start + index)
                except BrokenPictureError as error:
                    if strict:
                        raise
                    broken[start + index] = error

            for done in in_threads(try_one, end - start):
                bar.move_to(first + done)
            for index in range(start, end):
                if index not in broken:
                    if len(kept) != first + index - start:
                        move(len(kept), first + index - start)
                    kept.append(index)
            start = end
    errors = [broken[index] for index in sorted(broken)]
    if not kept:
        raise DataError(f"None of {num:,} pictures can be read: {errors[0]}")
    return kept, errors


class _KnownWhole:
    """Which rows of a source were whole before.

    Args:
        key: Of the source's files; None remembers nothing.
        size: Of the pictures wanted: not to all sizes is every picture whole.
        num: Rows, at least.
    """

    def __init__(self, key: str | None, size: int, num: int):
        self.path: Path | None = None
        self.rows = np.zeros(num, bool)
        if key is None:
            return
        with contextlib.suppress(ConfigError, OSError, ValueError):  # then they are checked again
            self.path = cache_folder("whole") / f"{digest(key, size)[:24]}.rows"
            before = np.frombuffer(self.path.read_bytes(), bool)
            self.rows = np.zeros(max(num, len(before)), bool)
            self.rows[: len(before)] = before
        self.num_before = int(self.rows.sum())

    def save(self) -> None:
        """Remember them for the next command."""
        if self.path is None or process_index() or self.rows.sum() == self.num_before:
            return
        with contextlib.suppress(OSError):  # as above
            write_whole(self.path, self.rows.tobytes())
