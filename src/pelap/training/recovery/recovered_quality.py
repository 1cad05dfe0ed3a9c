"""How good a model is, on the same pictures with the same noise at every call."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.core.processes import sum_over_processes
from pelap.core.seeding import generator
from pelap.measure.encoded_batches import Batches
from pelap.measure.noise_levels import to_db
from pelap.method.system import LatentDiffusion


@dataclass(frozen=True)
class Quality:
    """Means over pictures."""

    psnr_db: float
    """Of decoding the encoder's mean."""
    noise_loss: float | None
    """Mean squared error of the predicted noise, one timestep a picture; None without denoiser."""


@torch.no_grad()
def measure_quality(system: LatentDiffusion, batches: Batches, label: str) -> Quality:
    """Reconstructions, and the noise loss where the system has a denoiser.

    Args:
        system: The model.
        batches: The pictures; each process takes its own, all get the result.
        label: Of a progress bar.
    """
    total = torch.zeros(2, dtype=torch.float64)
    for batch in batches.of_this_process(system, label):
        total[0] += _squares(system.decode(batch.mean) - batch.images)
        if system.denoiser is None:
            continue
        device, size = batch.latents.device, len(batch.latents)
        source = generator(batches.seed, "sampling", batch.number, device)
        num_timesteps = len(system.scheduler.alphas_cumprod)
        timesteps = torch.randint(num_timesteps, (size,), generator=source, device=device)
        noise = torch.randn(batch.latents.shape, generator=source, device=device)
        noisy, _ = system.noised(batch.latents, noise, timesteps)
        total[1] += _squares(system.predict_noise(noisy, timesteps, batch.told) - noise)
    means = sum_over_processes(total) / batches.num_pictures
    return Quality(to_db(means[0]), None if system.denoiser is None else float(means[1]))


def _squares(errors: Tensor) -> float:
    """Each picture's mean square of errors (B, …), added over the pictures."""
    return float(errors.square().double().flatten(1).mean(dim=1).sum())
