"""What a training's networks are fed: pictures, or the cached latents of a frozen autoencoder."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures, Splits, epoch_order, to_batch
from pelap.families.conditioned import Told, tell_classes
from pelap.method.system import LatentDiffusion, Stage, latent_shape
from pelap.training.latent_cache import CachedLatents, Encoding, cache_latents


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
        shared, encoding = config.run.latent_cache, encoding_of(config)
        cache = Path(shared) if shared is not None else folder.latents
        with accelerator.local_main_process_first():
            train = cache_latents(system, splits.train, cache, "train", encoding)
            unflipped = replace(encoding, with_flips=False)
            test = cache_latents(system, splits.test, cache, "test", unflipped)
    rest = (system.denoiser, accelerator.device, config.run.channels_last)
    return StageInputs(splits.train, *rest, train), StageInputs(splits.test, *rest, test)


def encoding_of(config: RunConfig) -> Encoding:
    """How a run encodes the pictures that it trains on."""
    channels, height, width = latent_shape(config)
    return Encoding(
        (2 * channels, height, width), config.run.precision, config.evaluation.batch_size,
        config.data.flip, config.run.channels_last, asdict(config.data),
    )  # fmt: skip


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
