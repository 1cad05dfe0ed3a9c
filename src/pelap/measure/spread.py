"""Sums over pictures, the first pass of a diagnosis: size of latents, masks, decoding errors."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pelap.core.seeding import generator
from pelap.families.conditioned import Told
from pelap.families.latent_axes import by_channel
from pelap.method.system import LatentDiffusion, sample_moments

Tell = Callable[[int], Told | None]
"""What a denoiser is told of a batch, by the batch's number."""
MIN_VARIANCE_SHARE = 0.01
"""A channel with less of the widest one's variance carries nothing worth recovering."""


@dataclass
class Moments:
    """Running mean and standard deviation per channel, in float64."""

    total: Tensor | float = 0.0
    total_of_squares: Tensor | float = 0.0
    count: int = 0

    def add(self, latents: Tensor) -> None:
        """Take in latents (B, C, …)."""
        values = latents.double().cpu().transpose(0, 1).flatten(1)  # (C, B·…)
        self.total = self.total + values.sum(dim=1)
        self.total_of_squares = self.total_of_squares + values.square().sum(dim=1)
        self.count += values.shape[1]

    def std(self) -> Tensor:
        """Standard deviation of each channel, (C,)."""
        variance = self.total_of_squares / self.count - (self.total / self.count) ** 2
        return torch.as_tensor(variance).clamp(min=0).sqrt()


@dataclass
class PictureSums:
    """What each picture adds to, whatever else is measured of it."""

    latents: Moments = field(default_factory=Moments)
    masked_latents: Moments = field(default_factory=Moments)
    masks: list[Tensor] = field(default_factory=list)
    """(B, C) a batch, on the CPU."""
    squared_error: float = 0.0
    """Error of decoding the latents, summed over all values of images in [-1, 1]."""
    masked_squared_error: float = 0.0
    """Error of decoding the latents after the mask."""
    num_values: int = 0
    """Values of all images together."""

    def add(
        self, images: Tensor, latents: Tensor, mask: Tensor, decoded: Tensor, masked_decoded: Tensor
    ) -> None:
        """Take in a batch.

        Args:
            images: (B, 3, H, W).
            latents: Before the mask, (B, C, …).
            mask: (B, C).
            decoded: What decoding the latents gives, (B, 3, H, W).
            masked_decoded: What decoding them after the mask gives, (B, 3, H, W).
        """
        self.latents.add(latents)
        self.masked_latents.add(latents * by_channel(mask, latents))
        self.masks.append(mask.cpu())
        self.squared_error += float((decoded - images).square().sum())
        self.masked_squared_error += float((masked_decoded - images).square().sum())
        self.num_values += images.numel()

    @property
    def num_pictures(self) -> int:
        """How many pictures were added."""
        return sum(map(len, self.masks))

    @property
    def mask_mean(self) -> Tensor:
        """Mean over pictures, (C,), float64."""
        return torch.cat(self.masks).double().mean(dim=0)


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
    told: Told | None = None
    """What the denoiser is told of each picture; None where it is told nothing."""

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
    system: LatentDiffusion, batches: Iterable[Tensor], seed: int, tell: Tell | None = None
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
        told = None if tell is None else tell(index)
        yield LatentImages(images, latents, system.mask(latents).mask, noise, told)


def measure_spread(system: LatentDiffusion, batches: Iterable[LatentImages]) -> PictureSums:
    """Go through the batches once: size of the latents, masks, and errors of decoding.

    Raises:
        ValueError: If there are no images.
    """
    sums = PictureSums()
    for batch in batches:
        decoded, masked_decoded = system.decode(batch.latents), system.decode(batch.masked)
        sums.add(batch.images, batch.latents, batch.mask, decoded, masked_decoded)
    if not sums.masks:
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
    weights = torch.ones_like(variance)
    if open_channels_only:
        std, weights = spread.latents.std(), mask_mean if mask_mean.sum() > 0 else weights
    return Signal(std, variance, weights, carried)
