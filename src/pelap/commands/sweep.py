"""`pelap sweep`: a grid of settings trained with several seeds; call again to go on."""

import itertools
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction

from pelap.commands.verb_settings import (
    JsonSettings,
    Output,
    PresetSettings,
    shown,
)
from pelap.config.overrides import apply_overrides
from pelap.config.run_checks import as_option
from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from pelap.commands.sweep_table import SweepResult


@dataclass(frozen=True, kw_only=True)
class SweepSettings(PresetSettings, JsonSettings):
    """What `pelap sweep` takes."""

    output: Output
    """Folder of trials and results."""
    grid: Annotated[UseAppendAction[tuple[str, ...]], shown("GROUP.FIELD=A,B")] = ()
    """A setting and its values; several make all combinations."""
    seeds: int = 1
    """Trainings of each combination."""
    jobs: int = 1
    """Trials at a time."""
    metrics: Annotated[tuple[str, ...], shown("METRIC …")] = ()
    """Quality metrics, as for evaluate."""


def run(settings: SweepSettings) -> "SweepResult":
    """Train and evaluate what is not done yet."""
    config = settings.run_config()
    from pelap.commands.sweep_trials import sweep

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trials are to end with it
    return sweep(
        config,
        settings.grid,
        settings.seeds,
        settings.output,
        jobs=settings.jobs,
        metrics=settings.metrics,
    )


@dataclass(frozen=True)
class GridAxis:
    """One setting and the values to try."""

    name: str
    """Dotted, as in the config: objective.sparsity_weight."""
    values: tuple[str, ...]
    """As one would write them on the command line; true and false for a switch."""


@dataclass(frozen=True)
class Trial:
    """One training of the sweep."""

    name: str
    settings: dict[str, str]
    """Value of each axis."""
    config: RunConfig


def parse_axis(text: str) -> GridAxis:
    """`group.field=a,b,c` as an axis.

    Raises:
        ConfigError: If it has another form.
    """
    name, equals, values = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not equals or "." not in name or not found:
        raise ConfigError(f"--grid {text}: give group.field=value,value, e.g. gate.budget=2,4.")
    return GridAxis(name, found)


def plan_trials(config: RunConfig, grid: Sequence[GridAxis], num_seeds: int) -> list[Trial]:
    """Every combination of the axes' values with every seed, checked.

    Seeds are the config's own and those that follow it, and vary slowest, so that an interrupted
    sweep has seen the whole grid.

    Raises:
        ConfigError: If a setting or value cannot be used, or is given twice.
    """
    if num_seeds < 1:
        raise ConfigError(f"--seeds is {num_seeds}: it must be at least 1.")
    names = [axis.name for axis in grid]
    if len(set(names)) < len(names):
        raise ConfigError("--grid names a setting twice: put all its values into one --grid.")
    if "run.seed" in names and num_seeds > 1:
        raise ConfigError("--grid run.seed and --seeds both vary the seed: give one.")
    trials = []
    for offset in range(num_seeds):
        for values in itertools.product(*(axis.values for axis in grid)):
            settings = dict(zip(names, values, strict=True))
            options = [_as_override(config, name, value) for name, value in settings.items()]
            point = apply_overrides(config, list(itertools.chain(*options)))
            point = replace(point, run=replace(point.run, seed=point.run.seed + offset))
            trials.append(Trial(_folder_name(settings, point.run.seed), settings, point))
    _refuse_twins(trials)
    return trials


def _as_override(config: RunConfig, name: str, value: str) -> list[str]:
    """As on the command line, where a switch has no value but a second name."""
    group, _, field = name.partition(".")
    if not isinstance(getattr(getattr(config, group, None), field, None), bool):
        return [as_option(name), value]
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"--grid {name}={value}: it must be true or false.")
    return [as_option(name if value.lower() == "true" else f"{group}.no_{field}")]


def _folder_name(settings: dict[str, str], seed: int) -> str:
    fields = ["seed", *(name.split(".")[-1] for name in settings)]
    parts = []
    for name, value in settings.items():
        field = name.split(".")[-1]
        is_clear = fields.count(field) == 1 or name == "run.seed"
        parts.append(f"{field if is_clear else name}={value}")
    if "run.seed" not in settings:
        parts.append(f"seed={seed}")
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts), flags=re.ASCII)


def _refuse_twins(trials: Sequence[Trial]) -> None:
    """One folder for two trainings would give one of them the other's figures."""
    seen: dict[str | RunConfig, Trial] = {}
    for trial in trials:
        for key in (trial.config, trial.name):
            twin = seen.setdefault(key, trial)
            if twin is not trial:
                what = "train the same" if key is trial.config else f"both need a folder {key}"
                values = [" and ".join(one.settings.values()) for one in (twin, trial)]
                raise ConfigError(f"--grid: {values[0]!r} and {values[1]!r} {what}: drop one.")
