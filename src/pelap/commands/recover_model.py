"""A pruned model in; the same model, trained for a few steps, out."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pelap.commands.any_model import (
    AnyModel,
    AnyPictures,
    as_model,
    as_pictures,
    told_nothing,
)
from pelap.commands.recovered import Recovered, make_record
from pelap.commands.recovery_folder import recovery_folder
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.devices import process_state, torch_device
from pelap.core.errors import ConfigError
from pelap.core.files import remove_folder
from pelap.core.notes import note
from pelap.data.pictures import Splits, to_batch
from pelap.measure.denoiser_fidelity import DenoiserFidelity, measure_fidelity
from pelap.measure.encoded_batches import Batches
from pelap.models.asked import Asked
from pelap.models.conditions import Conditions, check_told, find_conditions
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits
from pelap.models.saving import ChangedModel
from pelap.models.unconditional import without_condition
from pelap.training.preparation import check_tracker
from pelap.training.recovery.cached_pictures import cache_pictures
from pelap.training.recovery.low_memory import (
    check_device,
    checkpoint_gradients,
    hold_in_bf16,
    takes_bf16,
)
from pelap.training.recovery.recovered_quality import Quality, measure_quality
from pelap.training.recovery.recovery_card import (
    NO_LONGER_TOLD,
    describe_recovery,
)
from pelap.training.recovery.recovery_record import RecoveryFacts
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import (
    find_encode,
    make_student,
    make_teacher,
    pruned_parts,
    restore_precision,
    round_weights,
    typical_width,
    why_left,
)
from pelap.training.recovery.student_training import (
    StudentTraining,
    begin,
    kept_files,
    train_student,
)
from pelap.training.recovery.taps import find_taps
from pelap.training.recovery.validation_grid import make_grid
from pelap.training.recovery.validation_prompts import read_shown

BATCH_SIZE = 32
"""Pictures measured at a time, as in pruning."""


def recover(
    model: AnyModel,
    pictures: AnyPictures = None,
    *,
    teacher: AnyModel | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    unconditional: bool = False,
    **settings: Any,
) -> Recovered:
    """Train a pruned model for a few steps, towards pictures, noise and a teacher.

        pelap.recover(small, pictures, teacher=model, steps=1000).save("recovered")

    Args:
        model: Left as it is.
        pictures: To train and to measure on; a run's own by default.
        teacher: What it was pruned from.
        output: Write the model there. Until then checkpoints lie in `.NAME.recovery` beside it,
            and the same call goes on from there; without, they lie in a temporary folder.
        overwrite: Whether a folder that pelap made may be replaced.
        unconditional: Train a denoiser that wants text or a class on an empty prompt, or on none.
        **settings: Fields of `RecoverySettings`; `steps` must be given.

    Returns:
        The trained model; PSNR in dB and noise loss before and after.

    Raises:
        ConfigError: If a setting cannot be used, or the two models do not belong together.
        ModelError: If a class is not supported.
        DataError: If the pictures cannot be read.
        RunError: If the loss stops being finite.
    """
    chosen = RecoverySettings(**settings)
    chosen.check()
    check_device(chosen, torch_device())
    model = as_model(model)
    original = None if teacher is None else as_model(teacher)
    _check(model, original, chosen)
    config = as_pictures(model, pictures, original)
    if unconditional:
        model = told_nothing(model, config)
        original = None if original is None else told_nothing(original, config)
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            return _train(model, original, config, chosen, RunFolder(Path(folder) / "recovery"))
    folder = recovery_folder(Path(output))
    recovered, state = _train(model, original, config, chosen, folder), process_state()
    if state.is_main_process:
        recovered.save(Path(output), overwrite=overwrite)
        remove_folder(folder.path)
    state.wait_for_everyone()
    return recovered


def _check(model: LoadedModel, teacher: LoadedModel | None, settings: RecoverySettings) -> None:
    """Refuse what cannot work before anything long begins."""
    if settings.feature_weight > 0 and teacher is None:
        raise ConfigError("--feature-weight needs whom to learn from: give --teacher.")
    check_tracker("--tracker", settings.tracker)
    if model.denoiser is not None:
        model.check()
    if teacher is not None:
        find_encode(model, teacher)


def _train(
    model: LoadedModel,
    teacher: LoadedModel | None,
    config: RunConfig,
    settings: RecoverySettings,
    folder: RunFolder,
) -> Recovered:
    """Measure, train and measure again; checkpoints and metrics lie in `folder`."""
    encode = None if teacher is None else find_encode(model, teacher)
    splits = load_splits(model, config)
    if settings.parts != "decoder":
        check_told(model, splits, "; --parts decoder leaves the denoiser as it is")
    model, told = find_conditions(model, splits, config.data.size)
    for_training, for_test = told or (None, None)
    if teacher is not None and told is not None:
        teacher = without_condition(teacher, config.data.size)
    settings = settings.for_student(pruned_parts(model, teacher), typical_width(model))
    accelerator = Accelerator(log_with=settings.tracker, project_dir=folder.path)
    training = _gather(model, teacher, encode, splits, config, settings, accelerator, for_training)
    left = why_left(model)
    if left is not None:
        note(f"the denoiser is left as it is: {left}.")
    forgets = left is None and model.condition is not None and told is None
    if forgets:
        note(f"{NO_LONGER_TOLD}.")
    indices = torch.arange(min(settings.num_pictures, len(splits.test)))
    batches = Batches(splits.test, indices, BATCH_SIZE, settings.seed, for_test)
    shown = None
    if settings.validation_every is not None:
        names, path = splits.train.class_names, settings.validation_prompts
        shown = read_shown(model, path, names, is_told=not forgets)
    facts: RecoveryFacts = {
        "teacher": teacher.name if teacher else None,
        "data": describe_pictures(config, splits),
        "unconditional": model.condition is not None and told is None,
        "conditions": for_training.kind if for_training else None,
    }
    begin(training, folder, {**facts, "flip": training.flip, "num_train": len(splits.train)})
    training = _ready(training, shown, splits, folder)
    before = _measure(training, batches)
    train_student(training, folder)
    round_weights(training.student, model)
    after = _measure(training, batches)
    precision = "bf16" if takes_bf16(settings, accelerator.device) else "fp32"
    record = make_record(settings, before, after, len(indices), facts, precision)
    restore_precision(training.student, model)
    trained = training.student.model
    card = describe_recovery(model.name, record, left)
    files = kept_files(folder) if accelerator.is_main_process else {}  # which alone removes them
    return Recovered(
        record,
        model,
        ChangedModel(
            trained.autoencoder,
            trained.denoiser,
            card,
            dict(record),
            files,
            keeps_autoencoder=settings.parts == "denoiser",
        ),
    )


def _gather(
    model: LoadedModel,
    teacher: LoadedModel | None,
    encode: torch.Tensor | None,
    splits: Splits,
    config: RunConfig,
    settings: RecoverySettings,
    accelerator: Accelerator,
    conditions: Conditions | None,
) -> StudentTraining:
    image = to_batch(splits.test.fetch(torch.tensor([0])), "cpu")  # (1, 3, H, W)
    student = make_student(model, settings, image)
    made = None
    if teacher is not None and encode is not None:
        taps = find_taps(model, teacher) if settings.feature_weight > 0 else []
        made = make_teacher(teacher, student, encode, image, taps)
        made.system.to(accelerator.device)
    student.system.to(accelerator.device)
    return StudentTraining(
        student, made, splits.train, config.data.flip, settings, accelerator, conditions
    )


def _ready(
    training: StudentTraining, shown: Sequence[Asked] | None, splits: Splits, folder: RunFolder
) -> StudentTraining:
    """With validation pictures drawn and latents cached, in as little memory as was asked for."""
    settings, accelerator, student = training.settings, training.accelerator, training.student
    image = to_batch(splits.test.fetch(torch.tensor([0])), "cpu")  # (1, 3, H, W)
    grid = None
    if shown is not None:
        grid = make_grid(
            student, training.teacher, shown, image, settings, folder.path, accelerator
        )
    if training.teacher is not None and takes_bf16(settings, accelerator.device):
        hold_in_bf16(training.teacher, accelerator.device)
    cannot = checkpoint_gradients(student) if settings.gradient_checkpointing else []
    if cannot:
        note(f"--gradient-checkpointing: {' and '.join(cannot)} has none.")
    return replace(training, grid=grid, cached=cache_pictures(training, folder, image))


def _measure(
    training: StudentTraining, batches: Batches
) -> tuple[Quality, DenoiserFidelity | None]:
    student, teacher = training.student.system, training.teacher
    fidelity = None
    if teacher is not None:
        fidelity = measure_fidelity(teacher.system, student, teacher.encode, batches)
    return measure_quality(student, batches, "Measuring"), fidelity
