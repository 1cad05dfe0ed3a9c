"""`pelap describe`: parameters, shapes and multiply-accumulates of a preset, a run or a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from pelap.commands.verb_settings import (
    PRESET_NAMES,
    JsonSettings,
    OverrideSettings,
    Result,
    is_model,
    shown,
)
from pelap.config.overrides import apply_overrides, given_settings
from pelap.config.presets import PRESETS, get_preset
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import open_run
from pelap.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DescribeSettings(OverrideSettings, JsonSettings):
    """What `pelap describe` takes."""

    subject: Annotated[
        Positional[str],
        shown("PRESET|RUN|MODEL", help=f"{PRESET_NAMES}; a run, a diffusers folder or a hub id"),
    ]


@dataclass(frozen=True)
class Size(Result):
    """How large the networks of a config or a model are."""

    preset: str
    """Or the model's name."""
    num_parameters: dict[str, int]
    """Of each part, and in total."""
    shapes: dict[str, list[int]]
    """Of a picture and a latent, without the batch."""
    macs: dict[str, int]
    """Multiply-accumulates for one picture or latent."""

    def describe(self) -> str:
        lines = [f"{f'{k} parameters':24} {v:>14,}" for k, v in self.num_parameters.items()]
        for name, shape in self.shapes.items():
            lines.append(f"{name + ' shape':24} {' × '.join(map(str, shape)):>14}")
        lines += [f"{name + ' MACs':24} {count:>14,}" for name, count in self.macs.items()]
        return "\n".join(lines)


def measure_size(config: RunConfig) -> Size:
    """Count parameters and multiply-accumulates of a config's networks."""
    from pelap.measure.counts import count_macs, count_parameters
    from pelap.method.system import build_system, latent_shape

    system, size = build_system(config), config.data.size
    shapes = {
        "image": [3, size, size],
        "latent": list(latent_shape(config)),
        "mask": [config.network.latent_channels],
    }
    return Size(config.preset, count_parameters(system), shapes, count_macs(system, config))


def measure_model_size(name: str) -> Size:
    """Count what a diffusers folder or a model of the hub has, as far as it can be known."""
    from pelap.measure.counts import count_model
    from pelap.models.opening import open_model

    model = open_model(name)
    counts, side = count_model(model, model.latent_side), model.latent_side
    parameters, macs = (
        {part: count for part, count in found.items() if count is not None}
        for found in (counts.parameters, counts.macs)
    )
    return Size(model.name, parameters, {"latent": [model.num_channels, side, side]}, macs)


def run(settings: DescribeSettings) -> Size:
    """Count what the preset, the run or the model has."""
    if settings.subject not in PRESETS and is_model(settings.subject):
        if given_settings(settings.overrides):
            raise ConfigError(f"{settings.subject} is a model, which no setting of a run changes.")
        return measure_model_size(settings.subject)
    if settings.subject in PRESETS or not Path(settings.subject).exists():
        config = get_preset(settings.subject)
    else:
        config = open_run(settings.subject).config()
    config = apply_overrides(config, settings.overrides)
    return measure_size(config)
