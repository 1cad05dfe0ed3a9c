"""What a pipeline is asked to draw: a prompt or a class a picture, or noise alone."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pelap.core.errors import ConfigError
from pelap.models.conditions import known_classes
from pelap.models.loaded import LoadedModel


@dataclass(frozen=True)
class Asked:
    """What one picture is to show."""

    title: str = ""
    """In words; "" for nothing."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the pipeline's call: a prompt, a class, or nothing."""


def takes(model: LoadedModel) -> str | None:
    """The argument by which its pipeline is told what to draw, prompt or class_labels, if any.

    Args:
        model: Of a pipeline, which is not loaded for this.

    Raises:
        ModelError: If the pipeline's class is unknown.
    """
    taken = inspect.signature(model.pipeline_class().__call__).parameters
    return next((name for name in ("prompt", "class_labels") if name in taken), None)


def ask_for(
    model: LoadedModel, lines: Sequence[str], class_names: Sequence[str], option: str
) -> list[Asked]:
    """A picture for each line.

    Args:
        model: Of a pipeline that takes prompts or classes.
        lines: Prompts, or classes by name or number.
        class_names: Of the pictures; the classes go by these where there are as many.
        option: That the lines came from.

    Raises:
        ConfigError: If a line is no class.
    """
    if takes(model) == "prompt":
        return [Asked(line, {"prompt": line}) for line in lines]
    classes = known_classes(model) or ()
    names = tuple(class_names) if len(class_names) == len(classes) else classes
    places = {str(place): place for place in range(len(classes))}
    for words in (classes, names):  # where two have one name it is the first
        places |= {word: place for place, word in reversed(list(enumerate(words)))}
    if unknown := [line for line in lines if line not in places]:
        raise ConfigError(
            f"{option} has {unknown[0]!r}: give a class a line, by name ({', '.join(names[:3])}, …)"
            f" or as a number from 0 to {len(classes) - 1}."
        )
    return [_of_class(places[line], names) for line in lines]


def _of_class(number: int, names: Sequence[str]) -> Asked:
    title = names[number] if names[number] != str(number) else f"class {number}"
    return Asked(title, {"class_labels": [number]})
