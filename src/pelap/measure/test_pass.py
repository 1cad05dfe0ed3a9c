"""One pass over the test pictures: sums that every figure of evaluation.json is made of."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.data.pictures import Pictures
from pelap.families.conditioned import Told, tell_classes
from pelap.families.latent_axes import by_channel
from pelap.measure.encoded_batches import Batches
from pelap.measure.picture_sums import PictureSums
from pelap.method.losses import channel_mean
from pelap.method.sampling import to_uint8
from pelap.method.step import make_draws
from pelap.method.system import Draws, LatentDiffusion

NUM_SHOWN = 8
"""Pictures kept for the reconstruction figure."""


@dataclass
class Measurements(PictureSums):
    """Sums over the test pictures."""

    diffusion: float = 0.0
    """Noise loss with the latents, summed over pictures."""
    zero_latent_diffusion: float = 0.0
    """Noise loss with zeros in their place."""
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
    sums = Measurements.zeros(config.network.latent_channels)
    used, everything = config.evaluation, torch.arange(len(pictures))
    batches = Batches(pictures, everything, used.batch_size, used.seed)
    for number in range(len(batches)):
        images, labels = batches.fetch(number, device)  # (B, 3, H, W), (B,)
        draws = make_draws(config, len(images), "validation", number, device, seed=used.seed)
        latents = system.encode(images, draws.latent_noise).latents  # (B, C, h, w)
        mask = system.mask(latents).mask  # (B, C)
        masked_reconstruction = system.decode(latents * by_channel(mask, latents))  # (B, 3, H, W)
        reconstruction = masked_reconstruction
        if not system.options.decoder_sees_mask:
            reconstruction = system.decode(latents)  # (B, 3, H, W)

        sums.add(images, latents, mask, reconstruction, masked_reconstruction)
        told, size = tell_classes(system.denoiser, labels.to(device)), len(images)
        sums.diffusion += size * _noise_loss(system, latents, mask, draws, told)
        sums.zero_latent_diffusion += size * _noise_loss(system, 0 * latents, mask, draws, told)
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
