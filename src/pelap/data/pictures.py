"""Pictures with labels, fetched by index, and the steps from them to a batch."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from pelap.core.seeding import generator

DECODE_CHUNK = 32
"""Pictures a thread decodes at a stretch: small ones take less time than handing them out."""
PROGRESS_AFTER_SECONDS = 2.0


@dataclass(frozen=True, eq=False)
class Pictures(ABC):
    """Square RGB pictures of one size, with labels."""

    labels: Tensor
    """int64, shape (N,), an index into `class_names` each."""
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """The pictures at `indices`, shape (B,), as uint8 (B, 3, H, W) on the CPU.

        Raises:
            DataError: If a picture is broken or of the wrong size.
        """


@final
@dataclass(frozen=True, eq=False)
class InMemoryPictures(Pictures):
    """Pictures decoded once."""

    pixels: Tensor
    """uint8, shape (N, 3, H, W)."""

    def fetch(self, indices: Tensor) -> Tensor:
        return self.pixels[indices]


@final
@dataclass(frozen=True, eq=False)
class DecodedPictures(Pictures):
    """Pictures decoded again at each fetch, by a pool of threads."""

    rows: Tensor
    """int64, shape (N,): the row of each picture in its source."""
    decode: Callable[[int], np.ndarray]
    """From a row to its picture, uint8 (H, W, 3)."""
    size: int
    """Height and width in pixels."""

    def fetch(self, indices: Tensor) -> Tensor:
        return self._decode_rows(self.rows[indices].tolist(), show_progress=False)

    def select(self, indices: Tensor | slice) -> "DecodedPictures":
        """Some of the pictures, in the order of `indices`."""
        rows, labels = self.rows[indices], self.labels[indices]
        return DecodedPictures(labels, self.class_names, rows, self.decode, self.size)

    def in_memory(self) -> InMemoryPictures:
        """The same pictures, decoded now; a progress bar on stderr shows when that takes long.

        Raises:
            DataError: If a picture is broken or of the wrong size.
        """
        pixels = self._decode_rows(self.rows.tolist(), show_progress=True)
        return InMemoryPictures(self.labels, self.class_names, pixels)

    def _decode_rows(self, rows: list[int], show_progress: bool) -> Tensor:
        pixels = np.empty((len(rows), 3, self.size, self.size), np.uint8)

        def fill(start: int) -> int:
            chunk = rows[start : start + DECODE_CHUNK]
            for index, row in enumerate(chunk, start):
                pixels[index] = self.decode(row).transpose(2, 0, 1)
            return len(chunk)

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            decoded = threads.map(fill, range(0, len(rows), DECODE_CHUNK))
            for _ in _with_progress(decoded, len(rows)) if show_progress else decoded:
                pass
        return torch.from_numpy(pixels)


@dataclass(frozen=True)
class Splits:
    """What a run trains on and what it is measured on."""

    train: Pictures
    test: Pictures


@lru_cache(maxsize=2)
def epoch_order(num_pictures: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the pictures: a function of (seed, epoch) only.

    Returns:
        A permutation of the indices, int64, shape (num_pictures,). It is kept for the next call,
        so do not write into it.
    """
    return torch.randperm(num_pictures, generator=generator(seed, "order", epoch))


def to_batch(
    pictures_uint8: Tensor, device: torch.device | str, flips: Tensor | None = None
) -> Tensor:
    """Move pictures to the device as bytes, and there flip and scale them.

    Args:
        pictures_uint8: Pictures, uint8, shape (B, 3, H, W).
        device: Where the batch is needed.
        flips: Which pictures to mirror left to right, bool, shape (B,); None mirrors none.

    Returns:
        float32 in [-1, 1], shape (B, 3, H, W), on `device`.
    """
    pictures = pictures_uint8.to(device)
    if flips is not None:
        mirrored = flips.to(device)[:, None, None, None]  # (B, 1, 1, 1)
        pictures = torch.where(mirrored, pictures.flip(3), pictures)
    return pictures.float().div_(127.5).sub_(1)


def _with_progress(decoded: Iterable[int], total: int) -> Iterator[int]:
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task("Decoding pictures", total=total)
    began = time.monotonic()
    try:
        for num_pictures in decoded:
            progress.advance(task, num_pictures)
            if time.monotonic() - began > PROGRESS_AFTER_SECONDS:
                progress.start()
            yield num_pictures
    finally:
        progress.stop()
