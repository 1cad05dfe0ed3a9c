"""What a training's networks are fed: pictures, or the cached latents of a frozen autoencoder.

Cached latents are one file a split: float16, (flips, N, 2C, h, w), the normalised means and then
log-variances of each picture, and of its mirror image where the training flips. A key tells what
made them: the same autoencoder on the same pictures in the same precision finds them again,
anything else makes them anew. Processes that need the same file wait for the one that makes it.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from torch import Tensor, nn

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.digests import digest
from pelap.core.files import sync, write_whole
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures, Splits, epoch_order, to_batch
from pelap.families.conditioned import Told, tell_classes
from pelap.method.step import in_precision, uses_bf16
from pelap.method.system import LatentDiffusion, Stage, latent_shape

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
class StageInputs:
    """What a stage feeds its networks of one split."""

    pictures: Pictures
    denoiser: nn.Module
    device: torch.device
    channels_last: bool
    cached: CachedLatents | None
    """The latents of the pictures, where only the denoiser is trained."""

    def fetch(self, indices: Tensor, flips: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], or moments (B, 2C, h, w), on the device.

        Args:
            indices: int64, (B,).
            flips: Which pictures are mirrored, bool, (B,).
        """
        if self.cached is not None:
            return self.cached.fetch(indices, flips).to(self.device)
        images = to_batch(self.pictures.fetch(indices), self.device, flips)  # (B, 3, H, W)
        return (
            images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        )

    def tell(self, indices: Tensor, drops: Tensor | None = None) -> Told | None:
        """What the denoiser is told of the pictures at `indices` (B,); nothing where `drops`."""
        return tell_classes(self.denoiser, self.pictures.labels[indices].to(self.device), drops)


def stage_inputs(
    stage: Stage,
    config: RunConfig,
    splits: Splits,
    system: LatentDiffusion,
    folder: RunFolder,
    accelerator: Accelerator,
) -> tuple[StageInputs, StageInputs]:
    """What a stage trains on and is validated on; for the denoiser's, latents are cached first."""
    train = test = None
    if stage == "denoiser":
        shared, flip = config.run.latent_cache, config.data.flip
        cache = Path(shared) if shared is not None else folder.latents
        with accelerator.local_main_process_first():
            train = cache_latents(system, splits.train, cache, "train", config, with_flips=flip)
            test = cache_latents(system, splits.test, cache, "test", config, with_flips=False)
    rest = (system.denoiser, accelerator.device, config.run.channels_last)
    return StageInputs(splits.train, *rest, train), StageInputs(splits.test, *rest, test)


def share_of(accelerator: Accelerator, size: int) -> slice:
    """This process's part of a batch of `size`."""
    start = accelerator.process_index * size // accelerator.num_processes
    stop = (accelerator.process_index + 1) * size // accelerator.num_processes
    return slice(start, stop)


def draw_pictures(
    step: int, num_pictures: int, batch_size: int, seed: int, *, flip: bool, share: slice
) -> tuple[Tensor, Tensor | None]:
    """Which pictures a step shows this process, and which of them mirrored.

    Args:
        step: From 0.
        num_pictures: To train on, each once an epoch but for the last that fill no batch.
        batch_size: Pictures a step, over all processes.
        seed: Of order and mirroring.
        flip: Whether to mirror half of them at random.
        share: This process's part of the batch.

    Returns:
        Indices, int64 (B,), and mirrored or not, bool (B,) or None for none.
    """
    epoch, index = divmod(step, num_pictures // batch_size)
    indices = epoch_order(num_pictures, seed, epoch)[index * batch_size :][:batch_size][share]
    if not flip:
        return indices, None
    return indices, torch.rand(batch_size, generator=generator(seed, "flips", step))[share] < 0.5


def cache_latents(
    system: LatentDiffusion,
    pictures: Pictures,
    folder: Path,
    name: str,
    config: RunConfig,
    *,
    with_flips: bool,
) -> CachedLatents:
    """The cached latents of these pictures, made now unless they are there.

    Args:
        system: Its autoencoder and normaliser make the latents, in evaluation mode.
        pictures: N pictures.
        folder: Where the file is kept, as NAME-KEY.npy.
        name: Name of the split.
        config: Gives data, batch size and precision.
        with_flips: Whether to encode the mirror images too.
    """
    channels, height, width = latent_shape(config)
    shape = (1 + with_flips, len(pictures), 2 * channels, height, width)
    path = folder / f"{name}-{_key(system, pictures, config, shape)}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if _read(path, shape) is None:
            partial = path.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            try:
                _fill(partial, shape, system, pictures, config)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync(partial)
            partial.replace(path)
            description = {"data": asdict(config.data), "shape": shape}
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


def _key(
    system: LatentDiffusion, pictures: Pictures, config: RunConfig, shape: tuple[int, ...]
) -> str:
    use_bf16 = uses_bf16(config.run.precision, next(system.parameters()).device)
    settings = [asdict(config.data), shape, use_bf16]
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
def _fill(
    path: Path,
    shape: tuple[int, ...],
    system: LatentDiffusion,
    pictures: Pictures,
    config: RunConfig,
) -> None:
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    _reserve(path)
    device, size = next(system.eval().parameters()).device, config.evaluation.batch_size
    for start in track(range(0, len(pictures), size), "Caching latents", size):
        indices = torch.arange(start, min(start + size, len(pictures)))
        fetched = pictures.fetch(indices)
        for flip in range(shape[0]):
            images = to_batch(fetched, device, torch.full((len(indices),), bool(flip)))
            if config.run.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with in_precision(config.run.precision, device):
                moments = system.encode_moments(images)  # (B, 2C, h, w)
            file[flip, start : start + len(indices)] = moments.half().cpu().numpy()
    file.flush()
