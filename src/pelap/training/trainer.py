"""Train a run, or go on with one: pictures in, a run folder out, on one CPU or many devices."""

import shutil
import sys
from contextlib import nullcontext
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from pelap.config.overrides import refuse_others
from pelap.config.run_checks import as_option, settings_without_effect, validate
from pelap.config.run_config import EvaluationConfig, RunConfig, to_dict
from pelap.config.run_folder import (
    RunFolder,
    already_there,
    copy_run,
    create_run,
    open_run,
    write_config,
)
from pelap.core.errors import ConfigError
from pelap.training.checkpoint import TrainingState, last_checkpoint, step_of
from pelap.training.loop import Loop, restore
from pelap.training.preparation import prepare
from pelap.training.stage_objective import RunParts, StageObjective, refuse_collapsed
from pelap.training.stages import plan_stages
from pelap.training.tracking import Tracker
from pelap.training.training_batches import stage_inputs

LENGTH = ("run.epochs", "run.denoiser_epochs", "run.max_steps", "optimizer.cooldown_epochs")
AT_ANY_TIME = (
    "data.path",
    "data.memory_gb",
    *(
        f"evaluation.{field.name}"
        for field in fields(EvaluationConfig)
        if field.name != "batch_size"  # it decides the noise of validation
    ),
    "run.latent_cache",
    "run.on_collapse",
    "run.compile",
    "run.log_every",
    "run.checkpoint_every",
    "run.validate_every",
    "run.samples_every",
    "run.keep_checkpoints",
    "run.tracker",
)


def train(config: RunConfig, output: Path) -> RunFolder:
    """Train from scratch into a new run folder.

    Raises:
        ConfigError: If a setting cannot be used.
        DataError: If the pictures cannot be read.
        RunError: If `output` exists already, or the loss stops being finite.
    """
    validate(config)
    if output.exists():
        raise already_there(output)
    folder = RunFolder(output)
    parts, state = prepare(config, folder)
    if parts.accelerator.is_main_process:
        for line in settings_without_effect(config):
            parts.accelerator.print(f"note: {line}", file=sys.stderr)
        create_run(output, config)
    parts.accelerator.wait_for_everyone()
    _fit(parts, state, folder)
    return folder


def resume(path: Path, config: RunConfig | None = None, *, output: Path | None = None) -> RunFolder:
    """Continue a run from its last checkpoint, or from the start if it has none.

    On a CPU the metrics are those of the uninterrupted run, bit for bit: every random number is a
    function of the seed and the step.

    Args:
        path: Of the run.
        config: Its own by default; its length may change where its schedule is a trapezoid, and how
            often it says, keeps and draws something.
        output: Go on in a copy, and leave the run as it is.

    Raises:
        ConfigError: If a setting cannot change.
        RunError: If there is no such run, its checkpoint cannot be used, it was stopped because its
            model had collapsed, or another process works on it.
    """
    folder = open_run(path)
    own = folder.config()
    config = config or own
    checkpoint = last_checkpoint(folder.checkpoints)
    step = 0 if checkpoint is None else step_of(checkpoint)
    _check_changes(config, own, step)
    if output is not None and output.exists():
        raise already_there(output)
    to = folder if output is None else RunFolder(output)
    parts, state = prepare(config, to, is_new=checkpoint is None)
    total = plan_stages(config, parts.steps_per_epoch)[-1].last_step
    if total < step:
        raise ConfigError(f"{path} has taken {step} steps: that length ends after {total}.")
    if output is not None and parts.accelerator.is_main_process:
        copy_run(folder, output, [] if checkpoint is None else [checkpoint], config)
    parts.accelerator.wait_for_everyone()
    _fit(parts, state, to)
    return to


def _fit(parts: RunParts, state: TrainingState, folder: RunFolder) -> None:
    """Train from the last checkpoint to the end; the main process holds the run meanwhile."""
    config, accelerator = parts.config, parts.accelerator
    is_main = accelerator.is_main_process
    plans = plan_stages(config, parts.steps_per_epoch)
    with folder.held() if is_main else nullcontext():
        first = restore(folder, state, accelerator)
        if is_main and folder.config() != config:
            write_config(folder, config)
        accelerator.wait_for_everyone()
        if config.run.on_collapse == "stop":
            refuse_collapsed(folder)
        if config.run.tracker is not None:
            accelerator.init_trackers("pelap", _flat(config))
        steps = range(first, plans[-1].last_step)
        with Tracker(folder, accelerator, folder.name, config.data.batch_size, steps) as told:
            loop = Loop(accelerator, folder, state, told, config.run.keep_checkpoints)
            for plan in plans:
                if first < plan.last_step:
                    inputs = stage_inputs(
                        plan.stage, config, parts.splits, parts.system, folder, accelerator
                    )
                    steps = range(max(first, plan.first_step), plan.last_step)
                    loop.run(StageObjective(parts, plan, *inputs), steps)
        if is_main and config.run.latent_cache is None:
            shutil.rmtree(folder.latents, ignore_errors=True)


def _flat(config: RunConfig) -> dict[str, str]:
    """Every setting of its groups by its dotted name, as trackers want them."""
    groups = {name: group for name, group in to_dict(config).items() if isinstance(group, dict)}
    return {f"{name}.{k}": str(v) for name, group in groups.items() for k, v in group.items()}


def _check_changes(config: RunConfig, own: RunConfig, step: int) -> None:
    """Refuse changes that would make what was trained so far another run's.

    Args:
        config: To go on with.
        own: What the run was trained with.
        step: Steps it has taken.

    Raises:
        ConfigError: Names the setting.
    """
    refuse_others(config, own, (*LENGTH, *AT_ANY_TIME))
    changed = [name for name in LENGTH if attrgetter(name)(config) != attrgetter(name)(own)]
    if step == 0 or not changed:
        return
    if own.optimizer.schedule != "trapezoid":
        raise ConfigError(
            "This run's learning rate was made for its length "
            f"(schedule {own.optimizer.schedule}): only runs with schedule trapezoid can change it."
        )
    if (config.run.denoiser_epochs is None) != (own.run.denoiser_epochs is None):
        raise ConfigError(
            f"{as_option('run.denoiser_epochs')} cannot be changed here: one training of both "
            "networks is not the same as one after the other."
        )
    if own.run.denoiser_epochs and own.run.autoencoder is None:
        for name in ("run.epochs", "run.max_steps"):  # they say where the denoiser's begins
            if name in changed:
                raise ConfigError(
                    f"{as_option(name)} cannot be changed here: the denoiser's training follows it."
                )
