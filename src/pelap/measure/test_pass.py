"""One pass over the test pictures: sums that every figure of evaluation.json is made of."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.data.pictures import Pictures, to_batch
from pelap.families.conditioned import Told, tell_classes
from pelap.measure.moments import Moments
from pelap.method.losses import channel_mean
from pelap.method.sampling import to_uint8
from pelap.method.step import make_draws
from pelap.method.system import Draws, LatentDiffusion

NUM_SHOWN = 8
"""Pictures kept for the reconstruction figure."""


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
    reconstructions: list[Tensor] = field(default_factory=list)
    """uint8 (B, 3, H, W) a batch, if they were asked for."""
    shown: dict[str, Tensor] = field(default_factory=dict)
    """Images (NUM_SHOWN, 3, H, W) in [-1, 1] by name."""


@torch.no_grad()
def measure(
    system: LatentDiffusion,
    pictures: Pictures,
    config: RunConfig,
    device: torch.device,
    *,
    keep_reconstructions: bool = False,
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
        masked_reconstruction = system.decode(masked)  # (B, 3, H, W)
        reconstruction = masked_reconstruction
        if not system.options.decoder_sees_mask:
            reconstruction = system.decode(latents)  # (B, 3, H, W)

        told = tell_classes(system.denoiser, pictures.labels[indices].to(device))
        size = len(indices)
        sums.num_pictures += size
        sums.diffusion += size * _noise_loss(system, latents, mask, draws, told)
        sums.zero_latent_diffusion += size * _noise_loss(system, 0 * latents, mask, draws, told)
        sums.squared_error += float((reconstruction - images).square().sum())
        sums.masked_squared_error += float((masked_reconstruction - images).square().sum())
        sums.latents.add(latents)
        sums.masked_latents.add(masked)
        sums.masks.append(mask.cpu())
        if keep_reconstructions:
            sums.reconstructions.append(to_uint8(reconstruction).cpu())
        if not sums.shown:
            sums.shown = {
                "originals": images[:NUM_SHOWN],
                "reconstructions": reconstruction[:NUM_SHOWN],
                "masked_reconstructions": masked_reconstruction[:NUM_SHOWN],
            }
    return sums


def _noise_loss(
    system: LatentDiffusion, latents: Tensor, mask: Tensor, draws: Draws, told: Told | None
) -> float:
    noisy, _ = system.noised(latents, draws.noise, draws.timesteps, mask)
    error = (system.predict_noise(noisy, draws.timesteps, told) - draws.noise).square()
    return float(channel_mean(error, mask if system.options.open_channels_only else None))
