"""One pass over the test pictures: sums that every figure of evaluation.json is made of."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pelap.config import RunConfig
from pelap.data import Pictures, to_batch
from pelap.system import LatentDiffusion
from pelap.training.step import make_draws

NUM_SHOWN = 8
"""Pictures kept for the reconstruction figure."""


@dataclass
class Moments:
    """Running mean and standard deviation per channel, in float64."""

    total: Tensor
    total_of_squares: Tensor
    count: int = 0

    @classmethod
    def zeros(cls, num_channels: int) -> "Moments":
        total, squares = torch.zeros(2, num_channels, dtype=torch.float64)
        return cls(total, squares)

    def add(self, latents: Tensor) -> None:
        """Take in latents (B, C, h, w)."""
        values = latents.double().cpu()
        self.total += values.sum(dim=(0, 2, 3))
        self.total_of_squares += values.square().sum(dim=(0, 2, 3))
        self.count += values[:, 0].numel()

    def std(self) -> Tensor:
        """Standard deviation of each channel, (C,)."""
        mean = self.total / self.count
        return (self.total_of_squares / self.count - mean.square()).clamp(min=0).sqrt()


@dataclass
class Measurements:
    """Sums over the test pictures."""

    latents: Moments
    masked_latents: Moments
    num_pictures: int = 0
    diffusion: float = 0.0
    zero_latent_diffusion: float = 0.0
    squared_error: float = 0.0
    masked_squared_error: float = 0.0
    masks: list[Tensor] = field(default_factory=list)
    """(B, C) a batch."""
    shown: dict[str, Tensor] = field(default_factory=dict)
    """Images (NUM_SHOWN, 3, H, W) in [-1, 1] by name."""


@torch.no_grad()
def measure(
    system: LatentDiffusion, pictures: Pictures, config: RunConfig, device: torch.device
) -> Measurements:
    """Run the system over all pictures with fixed noise and timesteps, in float32.

    Latents are sampled as in training. The zero-latent loss uses the same noise and timesteps with
    zeros in the latent's place.
    """
    channels = config.network.latent_channels
    sums = Measurements(Moments.zeros(channels), Moments.zeros(channels))
    batches = torch.arange(len(pictures)).split(config.evaluation.batch_size)
    for index, indices in enumerate(batches):
        draws = make_draws(
            config, len(indices), "validation", index, device, seed=config.evaluation.seed
        )
        images = to_batch(pictures.fetch(indices), device, None)  # (B, 3, H, W)
        latents = system.encode(images, draws.latent_noise).latents  # (B, C, h, w)
        mask = system.mask(latents).mask  # (B, C)
        masked = latents * mask[:, :, None, None]  # (B, C, h, w)
        reconstruction = system.decode(latents)  # (B, 3, H, W)
        masked_reconstruction = system.decode(masked)  # (B, 3, H, W)
        for_real = system.predict_noise(masked, draws.noise, draws.timesteps)
        for_zero = system.predict_noise(torch.zeros_like(masked), draws.noise, draws.timesteps)

        size = len(indices)
        sums.num_pictures += size
        sums.diffusion += size * float((for_real - draws.noise).square().mean())
        sums.zero_latent_diffusion += size * float((for_zero - draws.noise).square().mean())
        sums.squared_error += float((reconstruction - images).square().sum())
        sums.masked_squared_error += float((masked_reconstruction - images).square().sum())
        sums.latents.add(latents)
        sums.masked_latents.add(masked)
        sums.masks.append(mask.cpu())
        if not sums.shown:
            sums.shown = {
                "originals": images[:NUM_SHOWN],
                "reconstructions": reconstruction[:NUM_SHOWN],
                "masked_reconstructions": masked_reconstruction[:NUM_SHOWN],
            }
    return sums
