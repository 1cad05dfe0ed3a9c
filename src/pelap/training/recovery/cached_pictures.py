"""Pictures encoded once, where nothing but their latents is needed again and again."""

import math
import shutil

import torch
from torch import Tensor

from pelap.config.run_folder import RunFolder
from pelap.core.notes import note
from pelap.method.step import Precision
from pelap.training.latent_cache import CachedLatents, Encoding, cache_latents
from pelap.training.recovery.low_memory import takes_bf16
from pelap.training.recovery.student_training import StudentTraining

ENCODED_AT_A_TIME = 32
MOST_OF_DISK = 0.5
"""Share of what is free that a cache may take."""
BYTES = 2
"""Of a cached value."""


def cache_pictures(
    training: StudentTraining, folder: RunFolder, image: Tensor
) -> CachedLatents | None:
    """The latents of all pictures; None where the training wants pictures, or few of them.

    Args:
        training: Only a denoiser's can do without pictures, and encoding all of them has to be less
            work than encoding those of each step.
        folder: Keeps them while it trains.
        image: A picture, (1, 3, H, W) in [-1, 1].
    """
    settings, num = training.settings, len(training.pictures)
    shown = settings.steps * settings.batch_size
    if training.student.trains_decoder or shown < num * (1 + training.flip):
        return None
    device = training.accelerator.device
    precision: Precision = "bf16" if takes_bf16(settings, device) else "fp32"
    system = training.encoder
    with torch.no_grad():
        channels, height, width = system.encode_moments(image.to(device)).shape[1:]
    encoding = Encoding((channels, height, width), precision, ENCODED_AT_A_TIME, training.flip)
    with training.accelerator.local_main_process_first():
        size = BYTES * math.prod(encoding.whole_shape(num))
        free = shutil.disk_usage(folder.path).free
        if not folder.latents.exists() and size > MOST_OF_DISK * free:
            note(
                f"pictures are encoded in each step: their latents would take {size / 1e9:.1f} GB."
            )
            return None
        return cache_latents(system, training.pictures, folder.latents, "train", encoding)
