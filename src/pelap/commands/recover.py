"""`pelap recover`: a pruned model in; the same model, trained for a few steps, out."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pelap import __version__
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ConfigError
from pelap.data.pictures import Splits, to_batch
from pelap.measure.encoded_batches import Batches
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits
from pelap.models.saving import ChangedModel, save_model
from pelap.training.recovery.recovered_quality import Quality, measure_quality
from pelap.training.recovery.recovery_card import NO_LONGER_TOLD, describe_recovery, is_untold
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import (
    find_encode,
    make_student,
    make_teacher,
    restore_precision,
    round_weights,
    why_left,
)
from pelap.training.recovery.student_training import StudentTraining, begin, train_student
from pelap.training.recovery.taps import find_taps

BATCH_SIZE = 32
"""Pictures measured at a time, as in pruning."""


@dataclass(frozen=True)
class Recovery:
    """What a recovery was: the record in the history, and whether this process is to tell."""

    record: dict[str, Any]
    is_main_process: bool


def recover_model(
    model: LoadedModel,
    teacher: LoadedModel | None,
    config: RunConfig,
    settings: RecoverySettings,
    output: Path,
    *,
    overwrite: bool = False,
) -> Recovery:
    """Train a pruned model and write it as an ordinary diffusers folder.

    Until that is written, checkpoints and metrics lie in `.NAME.recovery` beside it; the same call
    goes on from there.

    Args:
        model: Left as it is.
        teacher: What it was pruned from, or None.
        config: Says which pictures.
        settings: Of the training.
        output: The new folder.
        overwrite: Whether a folder that pelap made may be replaced.

    Raises:
        ConfigError: If a setting cannot be used, or the two models do not belong together.
        ModelError: If a class is not supported.
        DataError: If the pictures cannot be read.
        RunError: If the loss stops being finite.
    """
    settings.check()
    if settings.feature_weight > 0 and teacher is None:
        raise ConfigError("--feature-weight needs whom to learn from: give --teacher.")
    if model.denoiser is not None:
        model.check()
    encode = None if teacher is None else find_encode(model, teacher)
    accelerator = Accelerator()
    training, splits = _gather(model, teacher, encode, config, settings, accelerator)
    left = why_left(model)
    if left is not None and accelerator.is_main_process:
        print(f"note: the denoiser is left as it is: {left}.", file=sys.stderr)  # noqa: T201
    if left is None and model.condition is not None and accelerator.is_main_process:
        print(f"note: {NO_LONGER_TOLD}.", file=sys.stderr)  # noqa: T201
    indices = torch.arange(min(settings.num_pictures, len(splits.test)))
    batches = Batches(splits.test, indices, BATCH_SIZE, settings.seed)
    described = {
        "teacher": teacher.name if teacher else None,
        "data": describe_pictures(config),
        "unconditional": model.condition is not None,
    }
    folder = working_folder(output)
    begin(training, folder, described | {"flip": training.flip, "num_train": len(splits.train)})
    before = measure_quality(training.student.system, batches, "Measuring")
    train_student(training, folder)
    round_weights(training.student, model)
    after = measure_quality(training.student.system, batches, "Measuring")
    record = _record(settings, before, after, len(indices), described)
    if accelerator.is_main_process:
        restore_precision(training.student, model)
        _save(model, training, record, left, folder, output, overwrite)
    accelerator.wait_for_everyone()
    return Recovery(record, accelerator.is_main_process)


def working_folder(output: Path) -> RunFolder:
    """Where checkpoints and metrics lie until the model is written."""
    output = output.resolve()
    return RunFolder(output.with_name(f".{output.name}.recovery"))


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse settings of a run that mean nothing here.

    Raises:
        ConfigError: Names the setting.
    """
    for override in overrides:
        name = override.split("=")[0].replace("_", "-")
        if name == "--data.batch-size":
            raise ConfigError("--data.batch-size has no effect here: give --batch-size.")
        if name.startswith("--") and not name.startswith(("--data.", "--run.seed")):
            raise ConfigError(f"{name} has no effect here: only --data.… says something.")


def _gather(
    model: LoadedModel,
    teacher: LoadedModel | None,
    encode: torch.Tensor | None,
    config: RunConfig,
    settings: RecoverySettings,
    accelerator: Accelerator,
) -> tuple[StudentTraining, Splits]:
    splits = load_splits(model, config)
    image = to_batch(splits.test.fetch(torch.tensor([0])), "cpu")  # (1, 3, H, W)
    student = make_student(model, settings.parts, image)
    made = None
    if teacher is not None and encode is not None:
        taps = find_taps(model, teacher) if settings.feature_weight > 0 else []
        made = make_teacher(teacher, student, encode, image, taps)
        made.system.to(accelerator.device)
    student.system.to(accelerator.device)
    return StudentTraining(
        student, made, splits.train, config.data.flip, settings, accelerator
    ), splits


def _record(
    settings: RecoverySettings,
    before: Quality,
    after: Quality,
    num_pictures: int,
    described: dict[str, Any],
) -> dict[str, Any]:
    return {
        "recovered": date.today().isoformat(),
        "pelap": __version__,
        "steps": settings.steps,
        "teacher": described["teacher"],
        "parts": settings.parts,
        "unconditional": described["unconditional"],
        "feature_weight": settings.feature_weight,
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "psnr_db_before": before.psnr_db,
        "psnr_db": after.psnr_db,
        "noise_loss_before": before.noise_loss,
        "noise_loss": after.noise_loss,
        "num_pictures": num_pictures,
        "data": described["data"],
    }


def _save(
    model: LoadedModel,
    training: StudentTraining,
    record: dict[str, Any],
    left: str | None,
    folder: RunFolder,
    output: Path,
    overwrite: bool,
) -> None:
    trained = training.student.model
    card = describe_recovery(model.name, record, left)
    files = {"metrics.jsonl": folder.metrics_path.read_text()}
    changed = ChangedModel(trained.autoencoder, trained.denoiser, card, record, files)
    save_model(model, changed, output, overwrite=overwrite)
    shutil.rmtree(folder.path)


def describe_recovered(record: dict[str, Any]) -> str:
    """What it brought, line by line."""
    lines = [
        f"{'steps':24} {record['steps']:,} of {record['batch_size']} pictures",
        f"{'teacher':24} {record['teacher'] or 'none'}",
        f"{'PSNR':24} {record['psnr_db_before']:.2f} → {record['psnr_db']:.2f} dB, "
        f"{record['num_pictures']:,} pictures",
    ]
    if record["noise_loss"] is not None:
        lines.append(
            f"{'noise loss':24} {record['noise_loss_before']:.4f} → {record['noise_loss']:.4f}"
        )
    if is_untold(record):
        lines.append(f"{'--unconditional':24} {NO_LONGER_TOLD}")
    return "\n".join(lines)
