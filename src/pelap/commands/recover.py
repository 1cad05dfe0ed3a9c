"""`pelap recover`: a pruned model trained for a few steps."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

from pelap.commands.verb_settings import (
    AnyFloat,
    AnyInt,
    AnyText,
    JsonSettings,
    ModelSettings,
    Output,
    PromptSettings,
    Switch,
    fields_of,
    shown,
)
from pelap.config.overrides import given_settings
from pelap.core.errors import ConfigError
from pelap.training.recovery.recovery_settings import PARTS, Parts, RecoverySettings

if TYPE_CHECKING:
    from pelap.commands.recover_model import Recovered


@dataclass(frozen=True, kw_only=True)
class RecoverSettings(ModelSettings, JsonSettings, RecoverySettings, PromptSettings):
    """What `pelap recover` takes."""

    output: Output
    """The new model folder."""
    teacher: Annotated[AnyText, shown("ORIGINAL")] = None
    """What MODEL was pruned from."""
    overwrite: Switch = False
    """Replace what pelap made at --output."""
    parts: Annotated[Optional[Parts], shown("|".join(PARTS))] = None  # noqa: UP045
    """Train the layers that carry the latent channels, one of decoder and denoiser, or all (all,
    and the denoiser alone where every latent channel stayed)."""
    learning_rate: AnyFloat = None
    """The highest (0.128 over the width of what is trained)."""
    decoder_learning_rate: AnyFloat = None
    """That of the decoder (a tenth of the other)."""
    gradient_checkpointing: Switch = False
    """Compute activations again when they are needed instead of keeping them."""
    tracker: Annotated[AnyText, shown("NAME")] = None
    """Any accelerate tracker, e.g. tensorboard or wandb, beside metrics.jsonl."""
    validation_every: AnyInt = None
    """Steps between grids of pictures, the teacher's above the student's."""
    validation_prompts: Annotated[AnyText, shown("FILE")] = None
    """What they show, a prompt or a class a line."""


def run(settings: RecoverSettings) -> "Recovered":
    """Train the model and write it; the same call goes on where another stopped."""
    from pelap.commands.recovery_folder import forget_finished
    from pelap.core.output import claimed, locked

    with locked(settings.output):
        forget_finished(settings.output)
    with claimed(settings.output, settings.overwrite):
        settings.check()  # refused before the models are opened
        _check_overrides(settings)
        from pelap.commands.recover_model import recover
        from pelap.models.model_pictures import pictures_config
        from pelap.models.opening import open_model

        drawn = settings.prompt_pictures(bool(given_settings(settings.overrides)))
        if drawn is not None and settings.teacher is None:
            raise ConfigError("--prompts needs who draws: give --teacher ORIGINAL.")
        model = settings.open()
        try:
            return recover(
                model,
                drawn or pictures_config(model, settings.overrides),
                teacher=None if settings.teacher is None else open_model(settings.teacher),
                output=settings.output,
                overwrite=settings.overwrite,
                unconditional=settings.unconditional,
                **fields_of(RecoverySettings, settings),
            )
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_way_on(settings)) from stop


def _way_on(settings: RecoverSettings) -> str:
    """What to say where the training was interrupted."""
    from pelap.commands.recovery_folder import recovery_folder
    from pelap.training.checkpoint import list_checkpoints, step_of

    found = list_checkpoints(recovery_folder(settings.output).checkpoints)
    where = f"goes on from step {step_of(found[-1]):,}" if found else "begins anew"
    return f"interrupted; `{shlex.join(['pelap', 'recover', *settings.overrides])}` {where}."


def _check_overrides(settings: RecoverSettings) -> None:
    """Refuse settings of a run that mean nothing here."""
    for name in given_settings(settings.overrides):
        if name == "--data.batch-size":
            raise ConfigError("--data.batch-size has no effect here: give --batch-size.")
        if not name.startswith(("--data.", "--run.seed")):
            raise ConfigError(f"{name} has no effect here: only --data.… says something.")
