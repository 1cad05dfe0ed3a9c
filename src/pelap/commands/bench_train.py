"""`pelap bench train`: the training step against the naive one."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from pelap.commands.verb_settings import (
    PRESET_NAMES,
    DeviceSettings,
    JsonSettings,
    OverrideSettings,
    Result,
    shown,
)
from pelap.config.overrides import apply_overrides
from pelap.config.presets import get_preset


@dataclass(frozen=True, kw_only=True)
class BenchTrainSettings(DeviceSettings, OverrideSettings, JsonSettings):
    """What `pelap bench train` takes."""

    preset: Annotated[Positional[str], shown("PRESET", help=PRESET_NAMES)]
    rounds: int = 5
    """Alternations."""


@dataclass(frozen=True, kw_only=True)
class TrainingBench(Result):
    """Speed of our training step and of the naive one, alternating in one process."""

    preset: str
    batch_size: int
    rounds: int
    precision: str
    compiled: bool
    naive_images_per_second: float
    """Median, as the next."""
    images_per_second: float
    ratio: float
    """Ours over the naive: median over rounds, with the least and the greatest."""
    ratio_min: float
    ratio_max: float
    step_gmacs_per_second: float
    """Multiply-accumulates of our step, in 10⁹."""
    convolution_gmacs_per_second: float
    """Of one large convolution."""
    share_of_convolution_rate: float
    machine: str
    versions: dict[str, str]

    def describe(self) -> str:
        return "\n".join(
            f"{name:32} {value:.3f}" if isinstance(value, float) else f"{name:32} {value}"
            for name, value in self.as_dict().items()
        )


def run(settings: BenchTrainSettings) -> TrainingBench:
    """Time both."""
    config = apply_overrides(get_preset(settings.preset), settings.overrides)
    from pelap.commands.bench_training import bench_train

    return bench_train(config, settings.rounds)
