"""Where a stage's batches come from: pictures, or the cached latents of a frozen autoencoder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.data.pictures import Pictures, Splits, to_batch
from pelap.families.conditioned import Told, tell_classes
from pelap.method.system import LatentDiffusion, Stage
from pelap.training.latent_cache import cache_latents

Fetch = Callable[[Tensor, Tensor | None], Tensor]
"""From indices (B,) and flips (B,) to a batch of images or moments on the device."""
Tell = Callable[..., Told | None]
"""From indices (B,), and which of them are not told (B,), to what the denoiser is told of them."""


@dataclass(frozen=True)
class Batches:
    """How a stage gets what it trains on and what it is validated on."""

    train: Fetch
    test: Fetch
    tell_train: Tell
    tell_test: Tell


def batches_of(
    stage: Stage,
    config: RunConfig,
    splits: Splits,
    system: LatentDiffusion,
    folder: RunFolder,
    accelerator: Accelerator,
) -> Batches:
    """The batches of a stage; for the denoiser's, its latents are cached first."""
    device = accelerator.device
    told = (_from_labels(system, splits.train, device), _from_labels(system, splits.test, device))
    if stage != "denoiser":
        channels_last = config.run.channels_last
        return Batches(
            _from_pictures(splits.train, device, channels_last),
            _from_pictures(splits.test, device, channels_last),
            *told,
        )
    shared = config.run.latent_cache
    cache = Path(shared) if shared is not None else folder.latents
    flip = config.data.flip
    with accelerator.local_main_process_first():
        train = cache_latents(system, splits.train, cache, "train", config, with_flips=flip)
        test = cache_latents(system, splits.test, cache, "test", config, with_flips=False)
    return Batches(
        lambda indices, flips: train.fetch(indices, flips).to(device),
        lambda indices, flips: test.fetch(indices, flips).to(device),
        *told,
    )


def _from_labels(system: LatentDiffusion, pictures: Pictures, device: torch.device) -> Tell:
    def tell(indices: Tensor, drops: Tensor | None = None) -> Told | None:
        return tell_classes(system.denoiser, pictures.labels[indices].to(device), drops)

    return tell


def _from_pictures(pictures: Pictures, device: torch.device, channels_last: bool) -> Fetch:
    def fetch(indices: Tensor, flips: Tensor | None) -> Tensor:
        images = to_batch(pictures.fetch(indices), device, flips)  # (B, 3, H, W)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    return fetch
