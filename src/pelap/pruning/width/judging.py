"""How far a narrower denoiser's predictions are from the original's, on a few pictures."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pelap.core.devices import torch_device
from pelap.core.seeding import generator
from pelap.families.conditioned import Told
from pelap.measure.encoded_batches import Batches
from pelap.models.loaded import LoadedModel

NUM_PICTURES = 32
NUM_LEVELS = 5
"""Noise levels at which each picture is compared."""


class PredictionJudge:
    """Relative errors ‖p − q‖ / ‖q‖ of predictions p, with q those of a model's own denoiser.

    Args:
        model: With a denoiser that can be run.
        batches: Pictures, with what the denoiser is told; the first NUM_PICTURES are taken.
    """

    def __init__(self, model: LoadedModel, batches: Batches):
        self.model = model
        self.device = torch_device()
        self.given: list[tuple[Tensor, Tensor, Told | None, Tensor]] = []
        system = model.measured_system(self.device)
        num_timesteps = len(system.scheduler.alphas_cumprod)
        timesteps = [int((level + 0.5) * num_timesteps / NUM_LEVELS) for level in range(NUM_LEVELS)]
        few = replace(batches, indices=batches.indices[:NUM_PICTURES])
        with torch.no_grad():
            for number in range(len(few)):  # all of them in each process, so that all agree
                batch = few.encode(system, number)
                latents = batch.latents  # (B, C, …)
                source = generator(few.seed, "sampling", number, latents.device)
                noise = torch.randn(latents.shape, generator=source, device=latents.device)
                for timestep in timesteps:
                    steps = torch.full((len(noise),), timestep, device=noise.device)
                    noisy, _ = system.noised(latents, noise, steps)
                    wanted = system.predict(noisy, steps, batch.told)
                    self.given.append((noisy, steps, batch.told, wanted))

    @torch.no_grad()
    def __call__(self, denoiser: nn.Module) -> float:
        """The error of another denoiser in the same model."""
        system = replace(self.model, denoiser=denoiser).measured_system(self.device)
        error = size = 0.0
        for noisy, steps, told, wanted in self.given:
            found = system.predict(noisy, steps, told)
            error += float((found - wanted).double().square().sum())
            size += float(wanted.double().square().sum())
        return (error / size) ** 0.5
