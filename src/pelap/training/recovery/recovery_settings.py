"""What a recovery is asked to do, and its learning rate. No torch here."""

import importlib.util
import math
from dataclasses import dataclass
from typing import Literal, Optional, get_args

from pelap.config.run_config import Precision, as_option
from pelap.core.errors import ConfigError
from pelap.training.schedules import half_cosine

Parts = Literal["pruned", "denoiser", "all"]
PARTS: tuple[Parts, ...] = ("pruned", "denoiser", "all")
Trained = Literal["all", "lora"]
Optimizer = Literal["adamw", "adamw8bit"]
COUNTS = (
    "steps",
    "batch_size",
    "num_pictures",
    "checkpoint_every",
    "accumulate",
    "rank",
    "validation_every",
)
WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""
CHOICES = {
    "parts": PARTS,
    "precision": get_args(Precision),
    "train": get_args(Trained),
    "optimizer": get_args(Optimizer),
}


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
    precision: Precision = "auto"
    """Of what the networks compute; weights stay float32. auto takes bf16 on a GPU that has it."""
    accumulate: int = 1
    """Parts of a batch, taken one after the other; more of them need less memory."""
    gradient_checkpointing: bool = False
    """Compute activations again when they are needed instead of keeping them."""
    train: Trained = "all"
    """The denoiser's weights, or low-rank additions to them and its first and last layer."""
    rank: int = 64
    """Of those additions."""
    optimizer: Optimizer = "adamw"
    """adamw8bit keeps its averages in 8 bits, on CUDA."""
    tracker: Optional[str] = None  # noqa: UP045 - tyro would import typeguard
    """Any accelerate tracker by name, e.g. tensorboard or wandb, beside metrics.jsonl."""
    validation_every: Optional[int] = None  # noqa: UP045
    """Steps between grids of pictures, the teacher's above the student's."""
    validation_prompts: Optional[str] = None  # noqa: UP045
    """File with what they show, a prompt or a class a line."""

    def check(self) -> None:
        """Refuse values that no training can have.

        Raises:
            ConfigError: Names the option, its value and what it must be.
        """
        for name in COUNTS:
            if (value := getattr(self, name)) is not None and value < 1:
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
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{as_option(name)} is {value}: known are {', '.join(known)}.")
        self._check_together()

    def _check_together(self) -> None:
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"--accumulate is {self.accumulate}: --batch-size {self.batch_size} must be a "
                "multiple of it."
            )
        if self.train == "lora" and self.parts == "pruned":
            raise ConfigError("--train lora and --parts pruned exclude each other: give one.")
        if self.validation_prompts is not None and self.validation_every is None:
            raise ConfigError("--validation-prompts needs --validation-every N, in steps.")
        for option, package, needed in (
            ("--train lora", "peft", self.train == "lora"),
            ("--optimizer adamw8bit", "bitsandbytes", self.optimizer == "adamw8bit"),
        ):
            if needed and importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"{option} needs the package {package}: pip install 'pelap[lowmem]'."
                )

    def rate(self, step: int) -> float:
        """Learning rate of a step from 0: a linear rise, then half a cosine down towards 0."""
        rising = max(1, round(WARM_UP * self.steps))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        phase = (step - rising) / (self.steps - rising)
        return self.learning_rate * half_cosine(phase)
