"""Running mean and spread of latents."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
