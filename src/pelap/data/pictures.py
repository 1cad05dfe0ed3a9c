"""Pictures with labels, fetched by index, and the steps from them to a batch."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from pelap.core.seeding import generator

DECODE_CHUNK = 32
"""Pictures a thread decodes at a stretch: small ones take less time than handing them out."""


@dataclass(frozen=True, eq=False)
class Pictures(ABC):
    """Square RGB pictures of one size, with labels."""

    labels: Tensor
    """int64, shape (N,), an index into `class_names` each."""
    class_names: tuple[str, ...]
    captions: tuple[str, ...] | None = field(default=None, kw_only=True)
    """N of them, "" where a picture has none; None where none has one."""

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


@dataclass(frozen=True, eq=False)
class PictureSource:
    """How the pictures of a source are made, by their rows."""

    decode: Callable[[int], np.ndarray]
    """From a row to its picture, uint8 (H, W, 3)."""
    size: int
    """Height and width in pixels."""
    check: Callable[[int], None] | None = None
    """Raises what `decode` would, in less time; None where no picture can be broken."""
    key: Callable[[], str | None] = lambda: None
    """Of all its files as they are now; None where that cannot be told."""


@final
@dataclass(frozen=True, eq=False)
class DecodedPictures(Pictures):
    """Pictures decoded again at each fetch, by a pool of threads."""

    rows: Tensor
    """int64, shape (N,): the row of each picture in its source."""
    source: PictureSource

    def fetch(self, indices: Tensor) -> Tensor:
        rows, size = self.rows[indices].tolist(), self.source.size
        pixels = np.empty((len(rows), 3, size, size), np.uint8)

        def fill(index: int) -> None:
            pixels[index] = self.source.decode(rows[index]).transpose(2, 0, 1)

        for _ in in_threads(fill, len(rows)):
            pass
        return torch.from_numpy(pixels)

    def select(self, indices: Tensor | slice) -> "DecodedPictures":
        """Some of the pictures, in the order of `indices`."""
        rows, labels, captions = self.rows[indices], self.labels[indices], self.captions
        if captions is not None:
            captions = tuple(captions[place] for place in torch.arange(len(self))[indices].tolist())
        return DecodedPictures(labels, self.class_names, rows, self.source, captions=captions)


def in_threads(work: Callable[[int], None], num: int) -> Iterator[int]:
    """Call `work` with 0, 1, … below `num`; how many of them are done, now and then."""

    def do(start: int) -> int:
        stop = min(start + DECODE_CHUNK, num)
        for index in range(start, stop):
            work(index)
        return stop

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        yield from threads.map(do, range(0, num, DECODE_CHUNK))


@dataclass(frozen=True)
class Splits:
    """What a run trains on and what it is measured on."""

    train: Pictures
    test: Pictures
    left_out: tuple[str, ...] = ()
    """The broken pictures of both, by file name or row."""


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
