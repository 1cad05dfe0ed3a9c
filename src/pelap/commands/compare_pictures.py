"""What `pelap compare` draws side by side: prompts, classes or seeds, and how noise is carried."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pelap.commands.compare_denoisers import encode_between
from pelap.config.prompts import read_prompts
from pelap.config.run_config import RunConfig
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.data.pictures import Pictures
from pelap.measure.features import load_extractor
from pelap.measure.side_by_side import Drawer, DrawnSettings, compare_drawings
from pelap.measure.side_by_side_record import SideBySide
from pelap.models.asked import Asked, ask_for, takes
from pelap.models.conditions import known_classes
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import load_splits, picture_size


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
            read_prompts("--prompts", self.prompts)


def draw_side_by_side(
    models: Sequence[LoadedModel],
    config: RunConfig | None,
    rows: RowSettings,
    seed: int,
    extractor: str | None,
) -> tuple[SideBySide | None, str]:
    """The rows drawn by every model, the reference first; or None, and why there are none.

    Without a config there are no pictures to take captions or classes from.

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
    size = picture_size(models[0]) if config is None else config.data.size
    settings = DrawnSettings(size, rows.drawn_steps, rows.guidance, seed)
    return compare_drawings(drawers, asked, settings, judge, torch_device()), ""


def choose_rows(
    model: LoadedModel, config: RunConfig | None, settings: RowSettings
) -> tuple[list[Asked], str]:
    """Prompts, classes or seeds for a model's pipeline; none, and why, where it wants a prompt
    and there is none.

    Raises:
        ConfigError: If a line of --prompts is no class of it.
    """
    if not model.parts:
        return [], f"No pictures side by side: {model.name} is no pipeline."
    given = None if settings.prompts is None else read_prompts("--prompts", settings.prompts)
    num, argument = settings.num_rows, takes(model)
    if argument is None or (argument == "class_labels" and known_classes(model) is None):
        return [Asked(f"seed {n}") for n in range(num if given is None else len(given))], ""
    pictures = None if config is None else load_splits(model, config, needs_train=False).test
    own = () if pictures is None else pictures.class_names
    if given is None:
        given = _captions(pictures) if argument == "prompt" else _classes(model, own)
        given = given[:num]
    missing = "there are no captions" if pictures is None else "the pictures have no captions"
    reason = (
        f"No pictures side by side: {model.name} takes text, and {missing}; give --prompts FILE, a "
        "prompt a line."
    )
    asked = ask_for(model, given, own, "--prompts")
    return asked, "" if asked else reason


def _captions(pictures: Pictures | None) -> list[str]:
    """Those that differ."""
    captions = None if pictures is None else pictures.captions
    return list(dict.fromkeys(text for text in captions or () if text))


def _classes(model: LoadedModel, own: Sequence[str]) -> list[str]:
    """By name where the pictures have as many, or the pipeline has names."""
    classes = known_classes(model) or ()
    return list(own if len(own) == len(classes) else classes)
