"""What a recovery is asked to do, and its learning rate. No torch here."""

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import Literal, Optional, get_args

from pelap.config.run_checks import as_option
from pelap.config.run_config import Precision
from pelap.core.errors import ConfigError
from pelap.training.schedules import half_cosine

Parts = Literal["pruned", "decoder", "denoiser", "all"]
PARTS: tuple[Parts, ...] = ("pruned", "decoder", "denoiser", "all")
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

RATE_TIMES_WIDTH = 0.128
"""Adam's steps are as large for each weight, so that what they change in a layer's output goes with
its width (Yang et al., arXiv 2203.03466)."""
HIGHEST_RATE = 4e-3
DECODER_FACTOR = 0.1


@dataclass(frozen=True)
class RecoverySettings:
    """What a student is trained with, and how long."""

    steps: int
    """Of the training."""
    parts: Optional[Parts] = None  # noqa: UP045 - tyro would import typeguard
    """Train the layers that carry the latent channels, one of decoder and denoiser, or all; by
    default all, and the denoiser alone where every latent channel stayed."""
    learning_rate: Optional[float] = None  # noqa: UP045
    """The highest; by default 0.128 over the width of what is trained."""
    decoder_learning_rate: Optional[float] = None  # noqa: UP045
    """That of the decoder, which pruning changes less; by default a tenth of the other."""
    batch_size: int = 32
    """Pictures a step over all processes together."""
    teacher_weight: float = 10.0
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
        for name in ("learning_rate", "decoder_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                raise ConfigError(f"{as_option(name)} is {rate}: it must be above 0.")
        for name in ("teacher_weight", "feature_weight", "seed"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{as_option(name)} is {value}: it must be 0 or more.")
        if not 0 <= self.condition_dropout < 1:
            raise ConfigError(
                f"--condition-dropout is {self.condition_dropout}: from 0 to below 1."
            )
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) is not None and value not in known:
                raise ConfigError(f"{as_option(name)} is {value}: known are {', '.join(known)}.")
        self._check_together()

    def _check_together(self) -> None:
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"--accumulate is {self.accumulate}: --batch-size {self.batch_size} must be a "
                "multiple of it."
            )
        if self.train == "lora" and self.parts in ("pruned", "decoder"):
            raise ConfigError(
                f"--train lora and --parts {self.parts} exclude each other: give one."
            )
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
        highest, rising = self.learning_rate, max(1, round(WARM_UP * self.steps))
        assert highest is not None
        if step < rising:
            return highest * (step + 1) / rising
        return highest * half_cosine((step - rising) / (self.steps - rising))

    def for_student(self, parts: Parts, width: float) -> "RecoverySettings":
        """The same with these parts where none are named, and the learning rates of that width."""
        rate = self.learning_rate or min(RATE_TIMES_WIDTH / width, HIGHEST_RATE)
        of_decoder = self.decoder_learning_rate or DECODER_FACTOR * rate
        return replace(
            self, parts=self.parts or parts, learning_rate=rate, decoder_learning_rate=of_decoder
        )

    @property
    def decoder_factor(self) -> float:
        """The decoder's learning rate over the other."""
        assert self.learning_rate is not None
        assert self.decoder_learning_rate is not None
        return self.decoder_learning_rate / self.learning_rate
