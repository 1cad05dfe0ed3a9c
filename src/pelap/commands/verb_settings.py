"""What several verbs take, and what their records have in common. No torch here."""

import base64
import dataclasses
import html
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

from tyro.conf import Fixed, Positional, Suppress, arg

from pelap.assets import CIFAR
from pelap.config.overrides import apply_overrides, refuse_named_code
from pelap.config.presets import PRESETS, get_preset
from pelap.config.prompts import PromptPictures
from pelap.config.run_checks import load_config
from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError
from pelap.core.json_values import JsonObject

if TYPE_CHECKING:
    from pelap.models.loaded import LoadedModel

PRESET_NAMES = ", ".join(PRESETS)


def shown(metavar: str | None = None, **more: Any) -> Any:
    """How an option stands in the help: without a default that says nothing."""

    def hint(default: str) -> str:
        return "" if default in ("None", "False", "") else f"(default: {default})"

    return arg(metavar=metavar, help_behavior_hint=hint, **more)


ModelName = Annotated[Positional[str], shown("MODEL")]
RunName = Annotated[Positional[Path], shown("RUN")]
Switch = Annotated[bool, shown()]
# A typing.Union in place of `|`: tyro checks that one without importing typeguard, a tenth second.
AnyPath = Annotated[Optional[Path], shown("PATH")]  # noqa: UP045
Output = Annotated[Path, shown("PATH", aliases=("-o",))]
AnyOutput = Annotated[Optional[Path], shown("PATH", aliases=("-o",))]  # noqa: UP045
AnyText = Annotated[Optional[str], shown("TEXT")]  # noqa: UP045
AnyInt = Annotated[Optional[int], shown("INT")]  # noqa: UP045
AnyFloat = Annotated[Optional[float], shown("FLOAT")]  # noqa: UP045
Part = TypeVar("Part")


def is_model(name: str | Path) -> bool:
    """Whether this names a model rather than a run: a diffusers folder, a hub id, or `cifar`."""
    path = Path(name)
    if not path.exists():
        if str(name) == CIFAR:
            return True
        return str(name).count("/") == 1 and not str(name).startswith((".", "/", "runs/"))
    if (path / "model_index.json").is_file():
        return True
    config = path / "config.json"
    return config.is_file() and '"_class_name"' in config.read_text(errors="replace")


@dataclass(frozen=True, kw_only=True)
class JsonSettings:
    """Of a verb that prints a record."""

    json: Switch = False
    """One JSON object on stdout."""


@dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """Of a verb that runs networks."""

    device: AnyText = None
    """cpu, cuda, cuda:1 or mps (the fastest that there is)."""


@dataclass(frozen=True, kw_only=True)
class OverrideSettings:
    """Of a verb that takes settings of a run."""

    overrides: Annotated[tuple, Fixed, Suppress] = ()
    """The words of the command line; those that are settings of a run count."""


@dataclass(frozen=True, kw_only=True)
class PresetSettings(OverrideSettings, DeviceSettings):
    """Of a verb that trains."""

    preset: Annotated[Positional[AnyText], shown("PRESET", help=PRESET_NAMES)] = None
    config: AnyPath = None
    """A run's config.json, in place of PRESET."""

    def run_config(self) -> RunConfig:
        """The preset or the file, with the overrides.

        Raises:
            ConfigError: If both or none are given, or a value cannot be used.
        """
        if self.preset is not None and self.config is None:
            return apply_overrides(get_preset(self.preset), self.overrides)
        if self.preset is None and self.config is not None:
            config = apply_overrides(load_config(self.config), self.overrides)
            refuse_named_code(config, self.overrides)
            return config
        raise ConfigError(f"Give one of PRESET ({PRESET_NAMES}) and --config FILE.")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(OverrideSettings, DeviceSettings):
    """Of a verb on a model of any origin."""

    model: Annotated[Positional[AnyText], shown("MODEL")] = None
    """A run, a diffusers folder or a hub id."""
    autoencoder: Annotated[AnyText, shown("PACKAGE.MODULE:FACTORY")] = None
    """One's own autoencoder, in place of MODEL."""
    unconditional: Switch = False
    """Run a denoiser that wants text or a class on an empty prompt, or on none."""

    def open(self) -> "LoadedModel":
        """The model.

        Raises:
            ConfigError: If both or none are given.
            ModelError: If it cannot be opened.
        """
        from pelap.models.opening import open_factory, open_model

        if (self.model is None) == (self.autoencoder is None):
            raise ConfigError("Give one of MODEL and --autoencoder package.module:factory.")
        return open_factory(str(self.autoencoder)) if self.model is None else open_model(self.model)


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Of a verb that lets the unpruned model draw its pictures."""

    prompts: Annotated[AnyText, shown("FILE")] = None
    """In place of pictures: prompts, one a line, of which the unpruned model draws them; varied for
    200 that come with pelap, classes for a model that takes classes."""
    num_drawn: int = PromptPictures.num_drawn
    """Pictures drawn of --prompts."""
    drawn_guidance: AnyFloat = None
    """Guidance of that drawing (by default the pipeline's own)."""
    drawn_steps: AnyInt = None
    """Steps of that drawing (by default the pipeline's own)."""

    def prompt_pictures(self, given: bool) -> PromptPictures | None:
        """What is to be drawn; None without --prompts.

        Args:
            given: Whether there are pictures already.

        Raises:
            ConfigError: If there are, or a value cannot be used.
            DataError: If the prompts cannot be read.
        """
        if self.prompts is None:
            return None
        if given:
            raise ConfigError("Give one of --prompts and pictures (--data.source).")
        wanted = PromptPictures(self.prompts, self.num_drawn, self.drawn_guidance, self.drawn_steps)
        wanted.check()
        return wanted


def fields_of(kind: type[Part], settings: object) -> JsonObject:
    """Those of the settings that are fields of `kind`, by name."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]


class Result(ABC):
    """Base of what a public function returns: text in a terminal, HTML in a notebook."""

    @abstractmethod
    def describe(self) -> str:
        """For a terminal, without a newline at its end."""

    def as_dict(self) -> JsonObject:
        """What `--json` prints: the fields by name."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def figure(self) -> bytes | None:
        """A PNG for a notebook; None where there is none."""
        return None

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(self.describe())}</pre>"
        png = self.figure()
        if png is None:
            return text
        return f'{text}<img src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'


@dataclass(frozen=True)
class JsonResult(Result):
    """A result whose one form is its JSON."""

    values: JsonObject
    """As the verb's JSON file holds them."""

    def as_dict(self) -> JsonObject:
        """The values."""
        return self.values


@dataclass(frozen=True)
class Written(Result):
    """What a verb wrote."""

    path: Path

    def describe(self) -> str:
        """The path."""
        return str(self.path)

    def as_dict(self) -> JsonObject:
        """The path by its name."""
        return {"path": str(self.path)}
