"""What drawing pictures costs, beside another model in the same run.

Only ratios of one run are worth quoting; bare times change with the machine and its neighbours.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import torch

from pelap.commands.bench_sample import BenchSettings
from pelap.core.errors import ConfigError
from pelap.exports.runtime import OnnxNetworks
from pelap.measure.alternation import alternate, ratio
from pelap.measure.bench_record import Measurement, ModelCost, Ratio, SamplingBench
from pelap.measure.bench_subjects import Subject, at_side, make_subject
from pelap.measure.machine import machine, versions
from pelap.measure.sampling_time import Sampling, Seconds, make_scheduler
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.models.precision import DTYPES, Precision


@dataclass(frozen=True)
class _Setting:
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
    for precision in cast(tuple[Precision, ...], settings.precision):
        for compiled in (False, True) if settings.compile else (False,):
            samplings = [_sampling(one, precision, compiled, settings) for one in subjects]
            for batch_size in settings.batch_sizes:
                setting = _Setting(precision, compiled, batch_size)
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
    size = DTYPES[cast(Precision, settings.precision[0])].itemsize
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
    subjects: list[Subject], samplings: list[Sampling], setting: _Setting
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


def _measurement(setting: _Setting, turns: list[Seconds], memory: int | None) -> Measurement:
    seconds = median(turn.total for turn in turns) / setting.batch_size
    share = median(turn.denoising / turn.total for turn in turns)
    return Measurement(
        setting.precision, setting.compiled, setting.batch_size, seconds, 1 / seconds, memory, share
    )


def _ratio(setting: _Setting, first: list[Seconds], second: list[Seconds]) -> Ratio:
    ratios = ratio([turn.total for turn in second], [turn.total for turn in first])
    return Ratio(setting.precision, setting.compiled, setting.batch_size, *ratios)
