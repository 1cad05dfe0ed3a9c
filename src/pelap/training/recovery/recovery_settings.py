"""What a recovery is asked to do, and its learning rate. No torch here."""

import math
from dataclasses import dataclass
from typing import Literal

from pelap.config.run_config import as_option
from pelap.core.errors import ConfigError
from pelap.training.schedules import half_cosine

Parts = Literal["pruned", "denoiser", "all"]
PARTS: tuple[Parts, ...] = ("pruned", "denoiser", "all")
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class RecoverySettings:
    """What a student is trained with, and how long."""

    steps: int
    """Of the training."""
    parts: Parts = "all"
    """Train the layers that carry the latent channels, the denoiser alone, or decoder and
    denoiser."""
    learning_rate: float = 1e-4
    """The highest."""
    batch_size: int = 32
    """Pictures a step over all processes together."""
    teacher_weight: float = 1.0
    """Of the losses towards the teacher, beside those towards pictures and noise."""
    feature_weight: float = 0.0
    """Of the loss towards what leaves the teacher's blocks."""
    condition_dropout: float = 0.1
    """Share of the pictures whose caption or class the denoiser is not told."""
    seed: int = 0
    """Of all that is drawn."""
    num_pictures: int = 1000
    """Test pictures measured before and after, at most."""
    checkpoint_every: int = 100
    """Steps."""

    def check(self) -> None:
        """Refuse values that no training can have.

        Raises:
            ConfigError: Names the option, its value and what it must be.
        """
        for name in ("steps", "batch_size", "num_pictures", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{as_option(name)} is {getattr(self, name)}: at least 1.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"--learning-rate is {self.learning_rate}: it must be above 0.")
        for name in ("teacher_weight", "feature_weight", "seed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{as_option(name)} is {value}: it must be 0 or more.")
        if not 0 <= self.condition_dropout < 1:
            raise ConfigError(
                f"--condition-dropout is {self.condition_dropout}: from 0 to below 1."
            )
        if self.parts not in PARTS:
            raise ConfigError(f"--parts is {self.parts}: known are {', '.join(PARTS)}.")

    def rate(self, step: int) -> float:
        """Learning rate of a step from 0: a linear rise, then half a cosine down towards 0."""
        rising = max(1, round(WARM_UP * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        phase = (step - rising) / (self.steps - rising)
        return self.learning_rate * half_cosine(phase)
