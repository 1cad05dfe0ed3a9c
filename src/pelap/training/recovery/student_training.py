"""Training a student: what to train with, what the loop minimises, and going on after a stop."""

import json
import shutil
from dataclasses import asdict, dataclass
from typing import Any

from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim import AdamW

from pelap.config.run_folder import RunFolder, write_whole
from pelap.core.digests import digest
from pelap.core.errors import ConfigError
from pelap.data.pictures import Pictures, to_batch
from pelap.training.checkpoint import TrainingState
from pelap.training.loop import DivergenceError, Loop, Objective, restore
from pelap.training.preparation import check_batch
from pelap.training.recovery.recovery_losses import (
    RecoveryLosses,
    TrainedNetworks,
    make_batch,
    recovery_losses,
)
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import Student, Teacher
from pelap.training.tracking import Tracker
from pelap.training.training_batches import draw_pictures, share_of

EMA_DECAY = 0.999
MAX_GRADIENT_NORM = 1.0
LOG_EVERY = 10
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class StudentTraining:
    """A student with all that its recovery needs."""

    student: Student
    """On the accelerator's device."""
    teacher: Teacher | None
    pictures: Pictures
    """To train on."""
    flip: bool
    """Whether pictures are mirrored at random."""
    settings: RecoverySettings
    accelerator: Accelerator


def begin(training: StudentTraining, folder: RunFolder, described: dict[str, Any]) -> None:
    """Make the folder, or see that what it holds was begun with the same weights and settings.

    Args:
        training: What is to be trained.
        folder: For checkpoints and metrics.jsonl.
        described: What else must be the same to go on, as JSON.

    Raises:
        ConfigError: If it is of another recovery, or the batch does not fit.
    """
    settings, accelerator = training.settings, training.accelerator
    check_batch("--batch-size", settings.batch_size, len(training.pictures), accelerator)
    teacher = training.teacher.system if training.teacher else None
    wanted = {
        **asdict(settings),
        **described,
        "weights": digest(training.student.system, teacher),
    }
    path = folder.path / SETTINGS_FILE
    if path.exists():
        begun = json.loads(path.read_text())
        other = [name for name in wanted if begun.get(name) != wanted[name]]
        if other:
            raise ConfigError(
                f"{folder.path} holds an unfinished recovery with another {', '.join(other)}: "
                "repeat that command, or remove the folder."
            )
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
    accelerator.wait_for_everyone()


def train_student(training: StudentTraining, folder: RunFolder) -> None:
    """Train the student in place; at the end its weights are their moving average.

    On a CPU an interrupted recovery ends bit for bit as an uninterrupted one.

    Args:
        training: What is to be trained.
        folder: From `begin`; goes on from its last checkpoint, if any.

    Raises:
        RunError: If a checkpoint is broken, or the loss stops being finite: nothing is left then.
    """
    settings, accelerator = training.settings, training.accelerator
    weights = training.student.weights
    optimizer = AdamW(weights, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    # without use_ema_warmup its decay is min(decay, (1 + step) / (10 + step))
    ema = EMAModel(weights, decay=EMA_DECAY)
    taps = training.teacher.taps if training.teacher else ()
    networks = TrainedNetworks(training.student.system, [tap.student for tap in taps])
    model, wrapped = accelerator.prepare(networks, optimizer)
    # frozen weights come from the model itself, so that checkpoints need not hold them
    state = TrainingState(nn.ParameterList(weights), wrapped, ema)
    steps = range(restore(folder, state, accelerator), settings.steps)
    try:
        with Tracker(folder, accelerator, "Recovering", settings.batch_size, steps) as tracker:
            loop = Loop(accelerator, folder, state, tracker, keep_checkpoints=1)
            loop.run(RecoveryObjective(training, model), steps)
    except DivergenceError:
        if accelerator.is_main_process:
            shutil.rmtree(folder.path)
        raise


class RecoveryObjective(Objective):
    """What the pictures say, and what the teacher answers.

    Args:
        training: Student, teacher, pictures and settings.
        model: The student's `TrainedNetworks`, wrapped for several processes.
    """

    stage = "recovery"
    max_gradient_norm = MAX_GRADIENT_NORM

    def __init__(self, training: StudentTraining, model: nn.Module):
        self.training, self.model = training, model
        self.settings = training.settings
        self.remedy = f"lower --learning-rate (now {self.settings.learning_rate:g})"
        self.steps_per_epoch = len(training.pictures) // self.settings.batch_size
        student = training.student  # decoder and denoiser each on their own: they share nothing
        groups = (student.decoder_weights, student.denoiser_weights)
        self.clipped = [weights for weights in groups if weights]

    def learning_rate(self, step: int) -> float:
        return self.settings.rate(step)

    def forward(self, step: int) -> RecoveryLosses:
        settings, training = self.settings, self.training
        size, seed, pictures = settings.batch_size, settings.seed, training.pictures
        share = share_of(training.accelerator, size)
        indices, flips = draw_pictures(
            step, len(pictures), size, seed, flip=training.flip, share=share
        )
        images = to_batch(pictures.fetch(indices), training.accelerator.device, flips)
        batch = make_batch(
            training.student,
            training.teacher,
            images,
            seed=seed,
            step=step,
            batch_size=size,
            share=share,
        )
        output = self.model(batch.latents, batch.noisy, batch.timesteps)
        return recovery_losses(output, batch, settings.teacher_weight, settings.feature_weight)

    def is_logged(self, done: int) -> bool:
        return done == 1 or done % LOG_EVERY == 0 or self.is_saved(done)

    def is_saved(self, done: int) -> bool:
        return done % self.settings.checkpoint_every == 0 or done == self.settings.steps
