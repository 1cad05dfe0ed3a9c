"""The loop of a recovery: a student and pictures in, a better student out, resumable."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pelap.config.run_folder import RunFolder, write_whole
from pelap.core.errors import ConfigError, RunError
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures, epoch_order, to_batch
from pelap.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from pelap.training.recovery.recovery_losses import (
    Answers,
    RecoveryLosses,
    make_lesson,
    recovery_losses,
)
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import Student, Teacher
from pelap.training.tracking import keep_metrics_until
from pelap.training.validation import share_of

EMA_DECAY = 0.999
MAX_GRADIENT_NORM = 1.0
LOG_EVERY = 10
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Pupil:
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


@dataclass(frozen=True)
class _Training:
    pupil: Pupil
    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMAModel
    folder: RunFolder


def begin(pupil: Pupil, folder: RunFolder, described: dict[str, Any]) -> None:
    """Make the folder, or see that what it holds was begun with the same weights and settings.

    Args:
        pupil: Who will learn what.
        folder: For checkpoints and metrics.jsonl.
        described: What else must be the same to go on, as JSON.

    Raises:
        ConfigError: If it is of another recovery, or the batch does not fit.
    """
    _check_batch(pupil)
    student, teacher = pupil.student, pupil.teacher
    systems = [student.system, *([teacher.system] if teacher else [])]
    wanted = {
        **asdict(pupil.settings),
        **described,
        "weights": _digest(tensor for one in systems for tensor in one.state_dict().values()),
    }
    path = folder.path / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text())
        other = [name for name in wanted if found.get(name) != wanted[name]]
        if other:
            raise ConfigError(
                f"{folder.path} holds an unfinished recovery with another {', '.join(other)}: "
                "repeat that command, or remove the folder."
            )
    pupil.accelerator.wait_for_everyone()
    if pupil.accelerator.is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
    pupil.accelerator.wait_for_everyone()


def recover(pupil: Pupil, folder: RunFolder) -> None:
    """Train the student in place; at the end its weights are their moving average.

    On a CPU an interrupted recovery ends bit for bit as an uninterrupted one: every random number
    is a function of the seed and the step.

    Args:
        pupil: Who learns what.
        folder: From `begin`; goes on from its last checkpoint, if any.

    Raises:
        RunError: If a checkpoint is broken, or the loss stops being finite.
    """
    training = _prepare(pupil, folder)
    checkpoints = list_checkpoints(folder.checkpoints)
    first = 0
    if checkpoints:
        first = load_checkpoint(checkpoints[-1], _trained(pupil), training.optimizer, training.ema)
    if pupil.accelerator.is_main_process:
        keep_metrics_until(folder, first)
    pupil.accelerator.wait_for_everyone()
    steps = range(first, pupil.settings.steps)
    for step in track(steps, "Recovering"):
        losses = _train_step(training, step)
        _record(training, step + 1, losses)
    training.ema.copy_to(pupil.student.weights)


def _check_batch(pupil: Pupil) -> None:
    size, processes = pupil.settings.batch_size, pupil.accelerator.num_processes
    if size % processes:
        raise ConfigError(
            f"--batch-size is {size}: it must be a multiple of the {processes} processes."
        )
    if size > len(pupil.pictures):
        raise ConfigError(
            f"--batch-size is {size}: it must be at most the {len(pupil.pictures)} training "
            "pictures."
        )


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _prepare(pupil: Pupil, folder: RunFolder) -> _Training:
    weights = pupil.student.weights
    optimizer = torch.optim.AdamW(
        weights, lr=pupil.settings.learning_rate, weight_decay=0.0, fused=True
    )
    # without use_ema_warmup its decay is min(decay, (1 + step) / (10 + step))
    ema = EMAModel(weights, decay=EMA_DECAY)
    blocks = [tap.student for tap in pupil.teacher.taps] if pupil.teacher else []
    model, wrapped = pupil.accelerator.prepare(Answers(pupil.student.system, blocks), optimizer)
    return _Training(pupil, model, wrapped, ema, folder)


def _trained(pupil: Pupil) -> nn.Module:
    """What a checkpoint holds: frozen weights come from the model itself."""
    return nn.ParameterList(pupil.student.weights)


def _train_step(training: _Training, step: int) -> RecoveryLosses:
    pupil, settings = training.pupil, training.pupil.settings
    accelerator, student = pupil.accelerator, pupil.student
    for group in training.optimizer.param_groups:
        group["lr"] = settings.rate(step)
    share = share_of(accelerator, settings.batch_size)
    images = _images(pupil, step, share)  # (B, 3, H, W)
    lesson = make_lesson(
        student, pupil.teacher, images,
        seed=settings.seed, step=step, batch_size=settings.batch_size, share=share,
    )  # fmt: skip
    answer = training.model(lesson.latents, lesson.noisy, lesson.timesteps)
    losses = recovery_losses(answer, lesson, settings.teacher_weight, settings.feature_weight)
    accelerator.backward(losses.total_loss)
    for weights in (student.decoder_weights, student.denoiser_weights):
        if weights:  # each on its own: they share nothing
            accelerator.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
    training.optimizer.step()
    training.optimizer.zero_grad()
    training.ema.step(student.weights)
    return losses


def _images(pupil: Pupil, step: int, share: slice) -> Tensor:
    size, seed = pupil.settings.batch_size, pupil.settings.seed
    epoch, index = divmod(step, len(pupil.pictures) // size)
    indices = epoch_order(len(pupil.pictures), seed, epoch)[index * size :][:size][share]
    flips = None
    if pupil.flip:
        flips = torch.rand(size, generator=generator(seed, "flips", step))[share] < 0.5
    return to_batch(pupil.pictures.fetch(indices), pupil.accelerator.device, flips)


def _record(training: _Training, done: int, losses: RecoveryLosses) -> None:
    """Write metrics and checkpoint where they are due."""
    settings, accelerator = training.pupil.settings, training.pupil.accelerator
    is_last = done == settings.steps
    saves = done % settings.checkpoint_every == 0 or is_last
    if not (saves or done == 1 or done % LOG_EVERY == 0):
        return
    named = losses.named()
    means: Any = accelerator.reduce(torch.stack(list(named.values())), reduction="mean")
    if not torch.isfinite(means).all():
        if accelerator.is_main_process:
            shutil.rmtree(training.folder.path)
        raise RunError(
            f"The loss is not finite at step {done}: lower --learning-rate (now "
            f"{settings.learning_rate:g})."
        )
    if accelerator.is_main_process:
        line = {"split": "train", "step": done, "learning_rate": settings.rate(done - 1)}
        line |= dict(zip(named, means.tolist(), strict=True))
        with training.folder.metrics_path.open("a") as metrics:
            metrics.write(json.dumps(line) + "\n")
        if saves:
            save_checkpoint(
                training.folder.checkpoints, done, 1, _trained(training.pupil),
                training.optimizer, training.ema, is_last=is_last,
            )  # fmt: skip
    accelerator.wait_for_everyone()
