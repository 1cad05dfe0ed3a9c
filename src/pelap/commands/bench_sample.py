"""`pelap bench sample`: what drawing pictures costs, beside another model in the same run.

Only ratios of one run are worth quoting; bare times change with the machine and its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from pelap.core.errors import ConfigError
from pelap.export.runtime import OnnxNetworks
from pelap.measure.alternation import alternate, ratio
from pelap.measure.bench_record import Measurement, ModelCost, Ratio, SamplingBench
from pelap.measure.bench_subjects import Subject, at_side, make_subject
from pelap.measure.machine import machine, versions
from pelap.measure.sampling_time import Sampling, Seconds, make_scheduler
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.models.precision import DTYPES, Precision, check_precision

BACKENDS = ("torch", "onnxruntime")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class BenchSettings:
    """How to sample, and in which settings."""

    sampler: str = "ddim"
    """One of SAMPLERS, for models whose scheduler has betas; others keep their own."""
    steps: int = 50
    batch_sizes: Sequence[int] = (1, 16, 64)
    precisions: Sequence[Precision] = ("fp32",)
    compile: bool = False
    """Also time what torch.compile makes of each setting."""
    backend: str = "torch"
    device: str = "cpu"
    rounds: int = 5
    """That count, after one that does not."""
    size: int | None = None
    """Height and width of the latents; by default what a model was made for."""

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: One line that says what to give.
        """
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
        for precision in self.precisions:
            check_precision(precision, torch.device(self.device))
        make_scheduler({}, self.sampler)

    def check_onnx(self) -> None:
        """Refuse what onnxruntime is not given.

        Raises:
            ConfigError: One line that says what to leave out.
        """
        if tuple(self.precisions) != ("fp32",):
            raise ConfigError("--precision: exported networks compute in fp32; give that alone.")
        if self.compile:
            raise ConfigError("--compile is for torch: leave it out with exported networks.")
        if self.device != "cpu":
            raise ConfigError("--device: exported networks are run on the CPU; give cpu.")


@dataclass(frozen=True)
class Setting:
    """One row of the result."""

    precision: Precision
    compiled: bool
    batch_size: int


def open_subject(source: str | Path) -> LoadedModel | OnnxNetworks:
    """A folder that `pelap export` wrote, or anything that `open_model` takes.

    Raises:
        ModelError: If there is no model. One line.
    """
    if (Path(source) / "export.json").is_file():
        return OnnxNetworks(Path(source), torch.get_num_threads())
    return open_model(source)


def bench_sample(
    model: LoadedModel | OnnxNetworks,
    against: LoadedModel | OnnxNetworks | None = None,
    settings: BenchSettings | None = None,
) -> SamplingBench:
    """Time whole samplings (noise, steps, decoding) of one model, or of two in turn.

    Text, classes and sizes are random embeddings; no text encoder runs.

    Args:
        model: With a denoiser of a known class. An export is run by onnxruntime, whatever the
            settings' backend.
        against: Another, with which it alternates in every round.
        settings: How to sample.

    Returns:
        Costs and times of each model; with `against` its seconds over those of `model` too.

    Raises:
        ConfigError: If a setting is wrong, or a model cannot run at that size.
        ModelError: If there is no denoiser, or a class is unknown.
    """
    settings = settings or BenchSettings()
    settings.check()
    given = [one for one in (model, against) if one is not None]
    if settings.backend != "torch" or any(isinstance(one, OnnxNetworks) for one in given):
        settings.check_onnx()
    with TemporaryDirectory() as folder:
        subjects = [
            make_subject(one, settings.backend, settings.size, Path(folder) / str(place))
            for place, one in enumerate(given)
        ]
        return _measure(subjects, settings)


def _measure(subjects: list[Subject], settings: BenchSettings) -> SamplingBench:
    models, ratios = [_costs(subject, settings) for subject in subjects], []
    for precision in settings.precisions:
        for compiled in (False, True) if settings.compile else (False,):
            samplings = [_sampling(one, precision, compiled, settings) for one in subjects]
            for batch_size in settings.batch_sizes:
                setting = Setting(precision, compiled, batch_size)
                memories = _prepare(subjects, samplings, setting)
                turns = alternate([partial(s.run, batch_size) for s in samplings], settings.rounds)
                for cost, took, memory in zip(models, turns, memories, strict=True):
                    cost.measurements.append(_measurement(setting, took, memory))
                if len(turns) == 2:
                    ratios.append(_ratio(setting, *turns))
    return SamplingBench(
        models, settings.sampler, settings.steps, settings.rounds, settings.backend,
        settings.device, machine(), versions(), ratios if len(models) > 1 else None,
    )  # fmt: skip


def _costs(subject: Subject, settings: BenchSettings) -> ModelCost:
    scheduler = make_scheduler(subject.scheduler_config, settings.sampler)
    most = scheduler.config.get("num_train_timesteps", settings.steps)
    if settings.steps > most:
        raise ConfigError(f"--steps is {settings.steps}: {subject.name} takes from 1 to {most}.")
    channels, height, width = subject.shape
    size = DTYPES[settings.precisions[0]].itemsize
    return ModelCost(
        subject.name, subject.backend, type(scheduler).__name__, subject.counts.parameters,
        subject.counts.macs, subject.shape, channels * height * width * size,
    )  # fmt: skip


def _sampling(
    subject: Subject, precision: Precision, compiled: bool, settings: BenchSettings
) -> Sampling:
    device = torch.device(settings.device)
    networks = subject.networks(precision, compiled=compiled, device=device)
    scheduler = make_scheduler(subject.scheduler_config, settings.sampler)
    sampling = Sampling(networks, scheduler, subject.shape, settings.steps, device)
    if not compiled:
        with at_side(subject.name, subject.shape[1]):
            sampling.run(1, 1)
    return sampling


def _prepare(
    subjects: list[Subject], samplings: list[Sampling], setting: Setting
) -> list[int | None]:
    """Warm up, compile, and measure the memory of each."""
    if setting.compiled:
        torch.compiler.reset()  # it stops compiling a network anew after a few shapes
    memories = []
    for subject, sampling in zip(subjects, samplings, strict=True):
        sampling.run(setting.batch_size, 2)
        weights = subject.weight_bytes(setting.precision)
        memories.append(None if weights is None else weights + sampling.working_memory(
            setting.batch_size
        ))  # fmt: skip
    return memories


def _measurement(setting: Setting, turns: list[Seconds], memory: int | None) -> Measurement:
    seconds = median(turn.total for turn in turns) / setting.batch_size
    share = median(turn.denoising / turn.total for turn in turns)
    return Measurement(
        setting.precision, setting.compiled, setting.batch_size, seconds, 1 / seconds, memory, share
    )


def _ratio(setting: Setting, first: list[Seconds], second: list[Seconds]) -> Ratio:
    found = ratio([turn.total for turn in second], [turn.total for turn in first])
    return Ratio(
        setting.precision, setting.compiled, setting.batch_size, found.middle, found.low, found.high
    )
