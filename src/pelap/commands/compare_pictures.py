"""What `pelap compare` draws side by side: prompts, classes or seeds, and how noise is carried."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pelap.commands.compare_denoisers import encode_between
from pelap.config.run_config import RunConfig
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.data.pictures import Pictures
from pelap.measure.features import load_extractor
from pelap.measure.side_by_side import Drawer, DrawnSettings, Row, compare_drawings
from pelap.measure.side_by_side_record import SideBySide
from pelap.models.conditions import known_classes
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import load_splits


@dataclass(frozen=True)
class RowSettings:
    """Which pictures stand side by side, and how they are drawn."""

    prompts: Path | None = None
    """A file, a prompt or a class a line; captions or classes of the pictures by default."""
    num_rows: int = 6
    guidance: float | None = None
    """None: the pipeline's own."""
    drawn_steps: int | None = None
    """None: the pipeline's own."""

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ConfigError: One line that says what to give.
        """
        if self.num_rows < 1:
            raise ConfigError(f"--num-prompts is {self.num_rows}: it must be at least 1.")
        if self.drawn_steps is not None and self.drawn_steps < 1:
            raise ConfigError(f"--steps is {self.drawn_steps}: it must be at least 1.")
        if self.prompts is not None:
            read_prompts(self.prompts)


def read_prompts(path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises:
        ConfigError: If there are none, or it cannot be read as text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path} cannot be read: give a text file.") from error
    if not (found := [line for line in lines if line]):
        raise ConfigError(f"--prompts {path} is empty: give a prompt or a class a line.")
    return found


def draw_side_by_side(
    models: Sequence[LoadedModel],
    config: RunConfig,
    rows: RowSettings,
    seed: int,
    extractor: str | None,
) -> tuple[SideBySide | None, str]:
    """The rows drawn by every model, the reference first; or None, and why there are none.

    Raises:
        ConfigError: If a line of --prompts is no class of a model that takes classes.
        ModelError: If a pipeline cannot be loaded or called.
    """
    asked, reason = choose_rows(models[0], config, rows)
    if not asked:
        return None, reason
    if without := [model.name for model in models if not model.parts]:
        return None, f"No pictures side by side: {without[0]} is no pipeline."
    drawers = [Drawer(models[0]), *(Drawer(m, encode_between(m, models[0])) for m in models[1:])]
    judge = None if extractor is None else load_extractor(extractor, torch.device("cpu"))
    settings = DrawnSettings(config.data.size, rows.drawn_steps, rows.guidance, seed)
    return compare_drawings(drawers, asked, settings, judge, torch_device()), ""


def choose_rows(
    model: LoadedModel, config: RunConfig, settings: RowSettings
) -> tuple[list[Row], str]:
    """Prompts, classes or seeds for a model's pipeline; none, and why, where it wants a prompt
    and there is none.

    Raises:
        ConfigError: If a line of --prompts is no class of it.
    """
    if not model.parts:
        return [], f"No pictures side by side: {model.name} is no pipeline."
    pipeline: Any = model.pipeline()
    taken = inspect.signature(pipeline.__call__).parameters
    given = None if settings.prompts is None else read_prompts(settings.prompts)
    num = settings.num_rows if given is None else len(given)
    classes = known_classes(model)
    if "class_labels" in taken and classes is not None:
        pictures = load_splits(model, config, needs_train=False).test
        return _class_rows(classes, pictures.class_names, given, num), ""
    if "prompt" in taken:
        captions = given or _captions(load_splits(model, config, needs_train=False).test, num)
        reason = (
            f"No pictures side by side: {model.name} takes text, and the pictures have no "
            "captions; give --prompts FILE, a prompt a line."
        )
        return [Row(text, {"prompt": text}) for text in captions], "" if captions else reason
    return [Row(f"seed {number}") for number in range(num)], ""


def _captions(pictures: Pictures, num: int) -> list[str]:
    """The first so many that differ."""
    return list(dict.fromkeys(text for text in pictures.captions or () if text))[:num]


def _class_rows(
    classes: tuple[str, ...], of_pictures: tuple[str, ...], given: list[str] | None, num: int
) -> list[Row]:
    """By name where the pictures have as many, or the pipeline has names."""
    names = of_pictures if len(of_pictures) == len(classes) else classes
    places = {name: place for place, name in reversed(list(enumerate(names)))}
    rows = []
    for word in names[:num] if given is None else given:
        place = places.get(word, int(word) if word.isdecimal() else -1)
        if not 0 <= place < len(classes):
            raise ConfigError(
                f"--prompts has {word!r}: give a class a line, by name or as a number from 0 to "
                f"{len(classes) - 1}."
            )
        title = names[place] if names[place] != str(place) else f"class {place}"
        rows.append(Row(title, {"class_labels": [place]}))
    return rows
