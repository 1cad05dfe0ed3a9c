"""What a recovery's validation pictures show: a prompt or a class a column, or noise alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pelap.config.prompts import read_prompts
from pelap.core.errors import ConfigError
from pelap.families.registry import denoiser_family
from pelap.models.asked import Asked, ask_for, takes
from pelap.models.loaded import LoadedModel, runs_on_latents

MOST = 12
"""Columns."""
FROM_NOISE = 6
"""Columns where there is nothing to tell."""


def read_shown(
    model: LoadedModel, path: str | None, class_names: Sequence[str], *, is_told: bool
) -> list[Asked]:
    """The columns, from the first lines of a file.

    Args:
        model: Of a pipeline.
        path: Text file, a prompt or a class (name or number) a line; empty lines are passed over.
        class_names: Of the pictures.
        is_told: Whether the denoiser is trained with its text or class.

    Raises:
        ConfigError: If there is no such class, one is needed, or nobody to tell.
        DataError: If there is no such file, or it is empty.
    """
    if model.denoiser is None or not model.parts:
        raise ConfigError(
            f"--validation-every: {model.name} is no pipeline that draws pictures; leave it out."
        )
    argument = takes(model)
    if path is None:
        if argument is None or runs_on_latents(model.denoiser):
            return [Asked()] * FROM_NOISE
        if is_told:
            raise ConfigError(
                "--validation-every needs what to draw: give --validation-prompts FILE, a prompt "
                "or a class a line."
            )
        return [_of_nothing(model, argument)] * FROM_NOISE
    if argument is None:
        raise ConfigError(
            f"--validation-prompts has nobody to tell: {model.name} draws from noise alone. "
            "Give --validation-every only."
        )
    option = "--validation-prompts"
    return ask_for(model, read_prompts(option, Path(path))[:MOST], class_names, option)


def _of_nothing(model: LoadedModel, argument: str) -> Asked:
    if argument == "prompt":
        return Asked("", {"prompt": "", "guidance_scale": 1.0})
    denoiser: Any = model.denoiser
    none = denoiser_family(denoiser).none_class(denoiser.config)
    return Asked("", {"class_labels": [none], "guidance_scale": 1.0})
