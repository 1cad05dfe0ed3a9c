"""First pass of a diagnosis: the latents' size, the masks, and what decoding costs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.core.seeding import generator
from pelap.families.latent_axes import by_channel
from pelap.measure.picture_sums import PictureSums
from pelap.method.system import LatentDiffusion, sample_moments

MIN_VARIANCE_SHARE = 0.01
"""A channel with less of the widest one's variance carries nothing worth recovering."""


@dataclass(frozen=True)
class LatentImages:
    """A batch of images with its latents, and the noise that all timesteps share."""

    images: Tensor
    """(B, 3, H, W) in [-1, 1]."""
    latents: Tensor
    """Drawn as in training, (B, C, h, w)."""
    mask: Tensor
    """(B, C)."""
    noise: Tensor
    """Standard normal, (B, C, h, w)."""

    @property
    def masked(self) -> Tensor:
        """Latents as they reach the denoiser, (B, C, h, w)."""
        return self.latents * by_channel(self.mask, self.latents)


@dataclass(frozen=True)
class Signal:
    """What there is to recover from the noise. All float64, per channel."""

    std: Tensor
    """Standard deviation beside unit noise, (C,)."""
    variance: Tensor
    """Variance of the masked latents, (C,)."""
    weights: Tensor
    """Weights of the channels in the noise loss, (C,)."""
    carried: Tensor
    """Channels whose variance is not negligible, bool (C,)."""

    def snr_db(self, alphas_cumprod: Tensor) -> Tensor:
        """Signal-to-noise ratio of the carried channels in dB, at each of (T,) timesteps."""
        power = self.std[self.carried].square().mean()
        alphas = alphas_cumprod.double().cpu()
        return 10 * torch.log10(alphas * power / (1 - alphas))

    def gaussian_loss(self, alpha: float) -> float:
        """Noise loss of the best linear predictor at one ᾱ, see `gaussian_diffusion_loss`."""
        power = alpha * self.std.square()
        return float((self.weights * power / (power + 1 - alpha)).sum() / self.weights.sum())


def encode_all(
    system: LatentDiffusion, batches: Iterable[Tensor], seed: int
) -> Iterator[LatentImages]:
    """Batches of images (B, 3, H, W) with latents, masks and noise: the same at every call."""
    device = next(system.parameters()).device
    for index, batch in enumerate(batches):
        images = batch.to(device)  # (B, 3, H, W)
        moments = system.encode_moments(images)  # (B, 2C, h, w)
        source = generator(seed, "validation", index, device)
        shape = (2, len(images), moments.shape[1] // 2, *moments.shape[2:])
        latent_noise, noise = torch.randn(shape, generator=source, device=device)
        latents = sample_moments(moments, latent_noise).latents  # (B, C, h, w)
        yield LatentImages(images, latents, system.mask(latents).mask, noise)


def measure_spread(system: LatentDiffusion, batches: Iterable[LatentImages]) -> PictureSums:
    """Go through the batches once: size of the latents, masks, and errors of decoding.

    Raises:
        ValueError: If there are no images.
    """
    sums = None
    for batch in batches:
        sums = sums or PictureSums.zeros(batch.mask.shape[1])
        decoded, masked_decoded = system.decode(batch.latents), system.decode(batch.masked)
        sums.add(batch.images, batch.latents, batch.mask, decoded, masked_decoded)
    if sums is None:
        raise ValueError("There are no images to diagnose the model with.")
    return sums


def find_signal(spread: PictureSums, open_channels_only: bool) -> Signal:
    """What of the latents can be recovered, and what it is measured against.

    Args:
        spread: From `measure_spread`.
        open_channels_only: Whether the mask scales the noise along with the latents: it then leaves
            their ratio alone, and weighs the channels in the loss.
    """
    std, mask_mean = spread.masked_latents.std(), spread.mask_mean  # (C,) each
    variance = std.square()
    carried = variance >= MIN_VARIANCE_SHARE * variance.max()
    ones = torch.ones_like(variance)
    if not open_channels_only:
        return Signal(std, variance, ones, carried)
    return Signal(
        spread.latents.std(), variance, mask_mean if mask_mean.sum() > 0 else ones, carried
    )
