"""Sums over pictures: the size of their latents, their masks, and the errors of decoding."""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from pelap.families.latent_axes import by_channel


@dataclass
class Moments:
    """Running mean and standard deviation per channel, in float64."""

    total: Tensor
    total_of_squares: Tensor
    count: int = 0

    @classmethod
    def zeros(cls, num_channels: int) -> "Moments":
        """Before the first latents."""
        total, squares = torch.zeros(2, num_channels, dtype=torch.float64)
        return cls(total, squares)

    def add(self, latents: Tensor) -> None:
        """Take in latents (B, C, …)."""
        values = latents.double().cpu().transpose(0, 1).flatten(1)  # (C, B·…)
        self.total += values.sum(dim=1)
        self.total_of_squares += values.square().sum(dim=1)
        self.count += values.shape[1]

    def std(self) -> Tensor:
        """Standard deviation of each channel, (C,)."""
        mean = self.total / self.count
        return (self.total_of_squares / self.count - mean.square()).clamp(min=0).sqrt()


@dataclass
class PictureSums:
    """What each picture adds to, whatever else is measured of it."""

    latents: Moments
    masked_latents: Moments
    masks: list[Tensor] = field(default_factory=list)
    """(B, C) a batch, on the CPU."""
    squared_error: float = 0.0
    """Error of decoding the latents, summed over all values of images in [-1, 1]."""
    masked_squared_error: float = 0.0
    """Error of decoding the latents after the mask."""
    num_values: int = 0
    """Values of all images together."""

    @classmethod
    def zeros(cls, num_channels: int) -> Self:
        """Before the first picture."""
        return cls(Moments.zeros(num_channels), Moments.zeros(num_channels))

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
