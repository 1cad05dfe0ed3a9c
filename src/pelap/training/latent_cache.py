"""The latents of a frozen autoencoder, encoded once and read from disk while others learn.

One file a split: float16, (flips, N, 2C, h, w), the normalised means and then log-variances of each
picture, and of its mirror image where the training flips. A key tells what made them: the same
autoencoder on the same pictures in the same precision finds them again, anything else makes them
anew. Processes that need the same file wait for the one that makes it.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from pelap.core.digests import digest
from pelap.core.files import sync, write_whole
from pelap.core.json_values import JsonObject
from pelap.core.progress import track
from pelap.data.pictures import Pictures, to_batch
from pelap.method.step import Precision, in_precision, uses_bf16
from pelap.method.system import LatentDiffusion

NUM_DIGESTED = 1024
"""Pictures that are fetched at a time to tell the split from another."""


@dataclass(frozen=True)
class CachedLatents:
    """Moments of one split, read from disk as they are needed."""

    moments: np.memmap
    """float16, (flips, N, 2C, h, w)."""

    def fetch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Moments (B, 2C, h, w), float32, of the pictures at `indices` (B,), mirrored or not."""
        mirrored = np.zeros(len(indices), int) if flips is None else flips.numpy().astype(int)
        return torch.from_numpy(self.moments[mirrored, indices.numpy()]).float()


@dataclass(frozen=True)
class Encoding:
    """How pictures become latents."""

    shape: tuple[int, int, int]
    """Of a picture's moments, (2C, h, w)."""
    precision: Precision
    batch_size: int
    """Pictures at a time."""
    with_flips: bool
    """Whether mirror images are encoded too."""
    channels_last: bool = False
    data: JsonObject | None = None
    """Settings of the pictures, part of the key; None where they are the same anyway."""

    def whole_shape(self, num_pictures: int) -> tuple[int, ...]:
        """Of the file's values, (flips, N, 2C, h, w)."""
        return (1 + self.with_flips, num_pictures, *self.shape)


def cache_latents(
    system: LatentDiffusion, pictures: Pictures, folder: Path, name: str, encoding: Encoding
) -> CachedLatents:
    """The cached latents of these pictures, made now unless they are there.

    Args:
        system: Its autoencoder and normaliser make the latents, in evaluation mode.
        pictures: N pictures.
        folder: Where the file is kept, as NAME-KEY.npy.
        name: Name of the split.
        encoding: How they are made.
    """
    shape = encoding.whole_shape(len(pictures))
    path = folder / f"{name}-{_key(system, pictures, encoding)}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if _read(path, shape) is None:
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            try:
                _fill(partial, system, pictures, encoding)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync(partial)
            partial.replace(path)
            description = {"data": encoding.data, "shape": shape}
            write_whole(path.with_suffix(".json"), json.dumps(description, indent=2).encode())
    moments = _read(path, shape)
    assert moments is not None
    return CachedLatents(moments)


def _read(path: Path, shape: tuple[int, ...]) -> np.memmap | None:
    """The file's values; None if it is missing or damaged."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    is_whole = isinstance(found, np.memmap) and found.shape == shape and found.dtype == np.float16
    return found if is_whole else None


def _key(system: LatentDiffusion, pictures: Pictures, encoding: Encoding) -> str:
    use_bf16 = uses_bf16(encoding.precision, next(system.parameters()).device)
    settings = [encoding.data, encoding.whole_shape(len(pictures)), use_bf16]
    parts = [part for part in (system.autoencoder, system.normalizer) if part is not None]
    shown = map(pictures.fetch, torch.arange(len(pictures)).split(NUM_DIGESTED))
    # without their configs, which saving a model changes
    weights = [named for part in parts for pair in part.state_dict().items() for named in pair]
    return digest(settings, *shown, *weights)[:16]


def _reserve(path: Path) -> None:
    """Take the disk's space for a sparse file now: a mapped page that finds none later is SIGBUS.

    Raises:
        OSError: If there is not enough.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


@torch.no_grad()
def _fill(path: Path, system: LatentDiffusion, pictures: Pictures, encoding: Encoding) -> None:
    shape, size = encoding.whole_shape(len(pictures)), encoding.batch_size
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    _reserve(path)
    device = next(system.eval().parameters()).device
    for start in track(range(0, len(pictures), size), "Caching latents", size):
        indices = torch.arange(start, min(start + size, len(pictures)))
        fetched = pictures.fetch(indices)
        for flip in range(shape[0]):
            images = to_batch(fetched, device, torch.full((len(indices),), bool(flip)))
            if encoding.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with in_precision(encoding.precision, device):
                moments = system.encode_moments(images)  # (B, 2C, h, w)
            file[flip, start : start + len(indices)] = moments.half().cpu().numpy()
    file.flush()
