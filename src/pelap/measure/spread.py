"""First pass of a diagnosis: the latents' size, the masks, and what decoding costs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.core.seeding import generator
from pelap.measure.moments import Moments
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
        return self.latents * self.mask[:, :, None, None]


@dataclass
class Spread:
    """Sums over the pictures of a diagnosis."""

    latents: Moments
    masked: Moments
    masks: Tensor
    """(C,), float64."""
    num_pictures: int = 0
    squared_error: float = 0.0
    """Of decoding the latents, mean over a picture's values."""
    masked_squared_error: float = 0.0

    @classmethod
    def zeros(cls, num_channels: int) -> "Spread":
        """Before the first picture."""
        masks = torch.zeros(num_channels, dtype=torch.float64)
        return cls(Moments.zeros(num_channels), Moments.zeros(num_channels), masks)

    @property
    def mask_mean(self) -> Tensor:
        """Mean over pictures, (C,)."""
        return self.masks / self.num_pictures


@dataclass(frozen=True)
class Signal:
    """What there is to recover from the noise. All float64, per channel."""

    std: Tensor
    """Standard deviation beside unit noise, (C,)."""
    variance: Tensor
    """Of the masked latents, (C,)."""
    weights: Tensor
    """Of the channels in the noise loss, (C,)."""
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


def measure_spread(system: LatentDiffusion, batches: Iterable[LatentImages]) -> Spread:
    """Go through the batches once: size of the latents, masks, and errors of decoding.

    Raises:
        ValueError: If there are no images.
    """
    spread = None
    for batch in batches:
        spread = spread or Spread.zeros(batch.mask.shape[1])
        size, images = len(batch.images), batch.images
        spread.num_pictures += size
        spread.latents.add(batch.latents)
        spread.masked.add(batch.masked)
        spread.masks += batch.mask.sum(dim=0).double().cpu()
        spread.squared_error += size * _squared_error(system, batch.latents, images)
        spread.masked_squared_error += size * _squared_error(system, batch.masked, images)
    if spread is None:
        raise ValueError("There are no images to diagnose the model with.")
    return spread


def _squared_error(system: LatentDiffusion, latents: Tensor, images: Tensor) -> float:
    return float((system.decode(latents) - images).square().mean())


def find_signal(spread: Spread, open_channels_only: bool) -> Signal:
    """What of the latents can be recovered, and what it is measured against.

    Args:
        spread: From `measure_spread`.
        open_channels_only: Whether the mask scales the noise along with the latents: it then leaves
            their ratio alone, and weighs the channels in the loss.
    """
    variance = spread.masked.std().square()  # (C,)
    carried = variance >= MIN_VARIANCE_SHARE * variance.max()
    if not open_channels_only:
        return Signal(spread.masked.std(), variance, torch.ones_like(variance), carried)
    weights = spread.mask_mean if spread.masks.sum() > 0 else torch.ones_like(variance)
    return Signal(spread.latents.std(), variance, weights, carried)
