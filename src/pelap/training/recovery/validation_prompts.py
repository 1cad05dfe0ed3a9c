"""What a recovery's validation pictures show: a prompt or a class a column, or noise alone."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers

from pelap.core.errors import ConfigError
from pelap.families.registry import denoiser_family
from pelap.models.conditions import known_classes
from pelap.models.loaded import LoadedModel, runs_on_latents

MOST = 12
"""Columns."""
FROM_NOISE = 6
"""Columns where there is nothing to tell."""


@dataclass(frozen=True)
class Shown:
    """One column of the grid."""

    caption: str
    """What stands above it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the pipeline's call."""


def read_shown(
    model: LoadedModel, path: str | None, class_names: Sequence[str], *, is_told: bool
) -> list[Shown]:
    """The columns, from the first lines of a file.

    Args:
        model: Of a pipeline.
        path: Text file, a prompt or a class (name or number) a line; empty lines are passed over.
        class_names: Of the pictures.
        is_told: Whether the denoiser is trained with its text or class.

    Raises:
        ConfigError: If there is no such file or class, one is needed, or nobody to tell.
    """
    if model.denoiser is None or not model.parts:
        raise ConfigError(
            f"--validation-every: {model.name} is no pipeline that draws pictures; leave it out."
        )
    kind = model.parts["_class_name"] if model.memory is None else type(model.memory)
    kind = getattr(diffusers, kind) if isinstance(kind, str) else kind
    taken = inspect.signature(kind.__call__).parameters
    argument = next((name for name in ("prompt", "class_labels") if name in taken), None)
    if path is None:
        if argument is None or runs_on_latents(model.denoiser):
            return [Shown("")] * FROM_NOISE
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
    lines = _lines(path)[:MOST]
    if argument == "prompt":
        return [Shown(line, {"prompt": line}) for line in lines]
    classes = known_classes(model) or ()
    return [_of_class(line, classes, class_names) for line in lines]


def _lines(path: str) -> list[str]:
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--validation-prompts {path} is no text file that can be read: give one with a "
            "prompt or a class a line."
        ) from error
    if not any(lines):
        raise ConfigError(f"--validation-prompts {path} is empty: a prompt or a class a line.")
    return [line for line in lines if line]


def _of_nothing(model: LoadedModel, argument: str) -> Shown:
    if argument == "prompt":
        return Shown("", {"prompt": "", "guidance_scale": 1.0})
    denoiser: Any = model.denoiser
    none = denoiser_family(denoiser).none_class(denoiser.config)
    return Shown("", {"class_labels": [none], "guidance_scale": 1.0})


def _of_class(line: str, classes: Sequence[str], names: Sequence[str]) -> Shown:
    """A class by its number, by the pipeline's name, or by that of the pictures' folder."""
    own = names if len(names) == len(classes) else ()
    known = {word: place for said in (own, classes) for place, word in enumerate(said)}
    known |= {str(place): place for place in range(len(classes))}
    if line not in known:
        raise ConfigError(
            f"--validation-prompts holds {line!r}: the classes are the numbers below "
            f"{len(classes)}, or {', '.join(list(known)[:6])}, …."
        )
    number = known[line]
    caption = own[number] if own else classes[number]
    return Shown(
        caption if not caption.isdigit() else f"class {number}", {"class_labels": [number]}
    )
