"""`pelap bench sample`: what drawing pictures costs, alone or in turn with another model."""

from dataclasses import dataclass
from typing import Annotated

from pelap.commands.verb_settings import (
    AnyInt,
    AnyText,
    JsonSettings,
    ModelName,
    Result,
    Switch,
    shown,
)
from pelap.core.errors import ConfigError
from pelap.core.json_values import JsonObject
from pelap.core.records import to_json_dict
from pelap.measure.bench_record import SamplingBench, describe_sampling

BACKENDS = ("torch", "onnxruntime")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class BenchSettings:
    """How to sample, and in which settings."""

    sampler: str = "ddim"
    """ddpm, ddim or dpm-solver++, for models whose scheduler has betas; others keep their own."""
    steps: int = 50
    """Denoising steps."""
    batch_sizes: tuple[int, ...] = (1, 16, 64)
    """Pictures at a time."""
    precision: tuple[str, ...] = ("fp32",)
    """fp32, bf16 or both."""
    compile: Switch = False
    """Also time what torch.compile makes of each setting."""
    backend: str = "torch"
    """torch or onnxruntime."""
    device: str = "cpu"
    """cpu or cuda."""
    rounds: int = 5
    """Alternations that count, after one that does not."""
    size: AnyInt = None
    """Side of the latents (what the model was made for)."""

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: One line that says what to give.
        """
        import torch

        from pelap.measure.sampling_time import make_scheduler
        from pelap.models.precision import check_precision

        numbers = {"--steps": self.steps, "--rounds": self.rounds, "--size": self.size}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}: it must be at least 1.")
        for value in self.batch_sizes:
            if value < 1:
                raise ConfigError(f"--batch-sizes has {value}: each must be at least 1.")
        for name, value, known in (("--backend", self.backend, BACKENDS),
                                   ("--device", self.device, DEVICES)):  # fmt: skip
            if value not in known:
                raise ConfigError(f"{name} is {value!r}: known are {', '.join(known)}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: there is no GPU here that torch can use; give cpu.")
        for precision in self.precision:
            check_precision(precision, torch.device(self.device))
        make_scheduler({}, self.sampler)

    def check_onnx(self) -> None:
        """Refuse what onnxruntime is not given.

        Raises:
            ConfigError: One line that says what to leave out.
        """
        if self.precision != ("fp32",):
            raise ConfigError("--precision: exported networks compute in fp32; give that alone.")
        if self.compile:
            raise ConfigError("--compile is for torch: leave it out with exported networks.")
        if self.device != "cpu":
            raise ConfigError("--device: exported networks are run on the CPU; give cpu.")


@dataclass(frozen=True, kw_only=True)
class BenchSampleSettings(JsonSettings, BenchSettings):
    """What `pelap bench sample` takes."""

    model: ModelName
    """A run, a diffusers folder, a hub id, or an export."""
    against: Annotated[AnyText, shown("OTHER")] = None
    """What MODEL alternates with."""


@dataclass(frozen=True)
class BenchResult(Result):
    """Times of one model, or of two in turn."""

    values: SamplingBench
    """Costs, times and ratios."""

    def describe(self) -> str:
        """A table of the settings, with ratios where there are two models."""
        return describe_sampling(self.values)

    def as_dict(self) -> JsonObject:
        return to_json_dict(self.values)


def run(settings: BenchSampleSettings) -> BenchResult:
    """Time both."""
    from pelap.commands.bench_sampling import bench_sample, open_subject

    settings.check()
    model = open_subject(settings.model)
    against = None if settings.against is None else open_subject(settings.against)
    return BenchResult(bench_sample(model, against, settings))
