"""One model measured: quality on the same pictures as all others, cost beside the unpruned one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from pelap.commands.bench_sample import BenchSettings
from pelap.commands.bench_sampling import bench_sample
from pelap.config.run_config import RunConfig
from pelap.core.devices import torch_device
from pelap.core.digests import digest
from pelap.core.errors import ConfigError
from pelap.core.json_values import JsonObject
from pelap.measure.counts import count_model
from pelap.measure.encoded_batches import Batches
from pelap.measure.machine import machine, versions
from pelap.measure.model_quality import (
    QualitySettings,
    References,
    ToldPictures,
    measure_model_quality,
)
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import load_splits
from pelap.pages.tradeoff_points import NOISE_LOSS
from pelap.training.recovery.recovered_quality import measure_quality


@dataclass(frozen=True)
class TradeoffSettings(QualitySettings):
    """How much is measured and timed."""

    batch_sizes: Sequence[int] = (1, 16)
    """Pictures drawn at a time, where time is measured."""
    rounds: int = 5
    """Of timing each model against the unpruned one."""

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: One line that says what to give.
        """
        super().check()
        self.bench().check()
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ConfigError("--batch-sizes names a number twice: name each once.")

    def bench(self) -> BenchSettings:
        """As `pelap bench sample` takes them."""
        device = torch_device().type
        return BenchSettings(
            self.sampler, self.steps, tuple(self.batch_sizes), device=device, rounds=self.rounds
        )


def measure_model(
    model: LoadedModel,
    unpruned: LoadedModel,
    config: RunConfig,
    settings: TradeoffSettings,
    references: References,
) -> JsonObject:
    """Quality and cost of one model, its time in alternation with the unpruned one.

    Args:
        model: With a denoiser; may be `unpruned` itself.
        unpruned: What it was pruned from.
        config: Says which pictures.
        settings: How much is measured.
        references: From `make_references` for the same unpruned model.

    Returns:
        `name`; `quality`: fields of `MetricValue` by metric; `cost`: counts, and how many
        `times_as_fast` as the unpruned one it is, by batch size. `to_point` makes a point of it.

    Raises:
        ConfigError: If the model cannot take such pictures, or a metric cannot be measured.
        ModelError: If there is no denoiser, or a class is unknown.
        DataError: If the pictures cannot be read.
    """
    device = torch_device()
    values = measure_model_quality(model, references, config, settings, device)
    quality: dict[str, JsonObject] = {name: asdict(value) for name, value in values.items()}
    quality |= _noise_loss(model, config, settings, device, references.told)
    return {"name": model.name, "quality": quality, "cost": _cost(model, unpruned, settings)}


def _noise_loss(
    model: LoadedModel,
    config: RunConfig,
    settings: TradeoffSettings,
    device: torch.device,
    told: ToldPictures | None,
) -> dict[str, JsonObject]:
    """Empty where the denoiser needs more than latents and what is told of the pictures."""
    test = load_splits(model, config, needs_train=False).test
    indices = torch.arange(min(settings.num_pictures, len(test)))
    conditions = None
    if told is not None:
        model, conditions = replace(model, condition=told.condition), told.conditions
    size, seed = config.evaluation.batch_size, config.evaluation.seed
    batches = Batches(test, indices, size, seed, conditions)
    found = measure_quality(model.measured_system(device), batches, f"{model.name}: noise loss")
    if found.noise_loss is None:
        return {}
    no_interval = {"std": None, "low": None, "high": None, "num_references": None}
    return {NOISE_LOSS: {"value": found.noise_loss, "num_pictures": len(indices), **no_interval}}


def _cost(model: LoadedModel, unpruned: LoadedModel, settings: TradeoffSettings) -> JsonObject:
    side = model.latent_side
    counts = count_model(model, side)
    return {
        "parameters": counts.parameters,
        "macs": counts.macs,
        "latent_shape": [model.num_channels, side, side],
        "latent_bytes": 4 * model.num_channels * side * side,
        "times_as_fast": _times_as_fast(model, unpruned, settings),
    }


def _times_as_fast(
    model: LoadedModel, unpruned: LoadedModel, settings: TradeoffSettings
) -> list[dict[str, float]]:
    """By batch size; the unpruned model is by definition as fast as itself."""
    if model.autoencoder is unpruned.autoencoder and model.denoiser is unpruned.denoiser:
        same = {"ratio": 1.0, "ratio_min": 1.0, "ratio_max": 1.0}
        return [{"batch_size": size, **same} for size in settings.batch_sizes]
    ratios = bench_sample(model, unpruned, settings.bench()).ratios or []
    names = ("batch_size", "ratio", "ratio_min", "ratio_max")
    return [{name: getattr(row, name) for name in names} for row in ratios]


def fingerprint(
    model: LoadedModel,
    unpruned: LoadedModel,
    config: RunConfig,
    settings: TradeoffSettings,
    extractor: str | None,
) -> str:
    """A hash of all that a measurement depends on: weights, configs, settings, this machine."""
    said = [asdict(config.data), asdict(config.evaluation), config.run.seed, asdict(settings),
            extractor, machine(), versions()]  # fmt: skip
    networks = (model.autoencoder, model.denoiser, unpruned.autoencoder, unpruned.denoiser)
    return digest(said, model.scheduler_config, unpruned.scheduler_config, *networks)
