"""Frozen dataclasses that describe one run. No torch here: the command line must start fast.

Every field is an override on the command line (`--objective.sparsity-weight 0.01`), and the whole
is saved with the run as config.json and reloads from it.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pelap.errors import ConfigError

DataSource = Literal["photos", "cifar10", "folder", "dataset"]
GateKind = Literal["open", "sigmoid"]
Precision = Literal["auto", "fp32", "bf16"]
SamplerName = Literal["ddpm", "ddim", "dpm-solver++"]


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how they are cut into batches."""

    source: DataSource = "photos"
    """photos (embedded, no download), cifar10, folder (class folders) or dataset (hub id, parquet)."""
    path: str | None = None
    """Folder, parquet file or hub id; cifar10 finds $PELAP_DATA/cifar10 without it."""
    size: int = 32
    """Side of the square pictures in pixels, a multiple of 8."""
    resize: bool = False
    """Resize and centre-crop pictures of another size instead of refusing them."""
    batch_size: int = 128
    """Pictures a step over all processes together."""
    flip: bool = True
    """Random horizontal flips in training."""
    num_train: int | None = None
    """Use only the first so many training pictures."""
    num_test: int | None = None
    """Use only the first so many test pictures."""
    image_column: str | None = None
    """Column of the pictures (source dataset); found by itself where there is one."""
    label_column: str | None = None
    """Column of the labels (source dataset); found by itself where there is one."""
    memory_gb: float = 4.0
    """Keep the decoded pictures in memory up to this size, else decode again for each batch."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shapes of the paper's networks."""

    latent_channels: int = 4
    autoencoder_channels: int = 64
    """Width of the autoencoder's outermost level, a multiple of 8."""
    denoiser_channels: int = 64
    """Width of the denoiser at full latent resolution, a multiple of 8."""
    time_channels: int = 128
    """Width of the denoiser's time embedding, even."""


@dataclass(frozen=True)
class GateConfig:
    """The rule from scores to mask."""

    kind: GateKind = "sigmoid"
    """open (mask 1, the baseline) or sigmoid (the paper)."""
    hidden_channels: int = 32
    """Hidden width of the importance predictor."""
    initial_score: float = 3.0
    """Score at the start; sigmoid(3) = 0.953."""
    active_threshold: float = 0.5
    """A channel counts as active when its mask is above this."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the terms of the loss; 0 switches a term off."""

    reconstruction_weight: float = 1.0
    kl_weight: float = 0.001
    diffusion_weight: float = 1.0
    sparsity_weight: float = 0.01
    """λ in the paper; without effect for gate kind open."""


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process, as diffusers' schedulers name it."""

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a cosine schedule per epoch."""

    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    max_gradient_norm: float = 1.0
    """Clip the gradient's norm at this; 0 switches clipping off."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, used for validation and saving; 0 is off."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, how precise, how often."""

    epochs: int = 100
    max_steps: int | None = None
    """Stop after this many steps, whatever epochs says."""
    seed: int = 42
    precision: Precision = "auto"
    """auto takes bf16 where the processor or GPU is made for it."""
    channels_last: bool = True
    compile: bool = False
    """torch.compile the networks; pays on a GPU, needs a C++ compiler on a CPU."""
    log_every: int = 50
    """Steps between lines in metrics.jsonl."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, beside the one at the end of each epoch."""
    keep_checkpoints: int = 2
    """Keep the last so many checkpoints."""
    tracker: str | None = None
    """Any accelerate tracker by name, e.g. tensorboard or wandb, beside metrics.jsonl."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What `pelap evaluate` measures on the test split."""

    batch_size: int = 250
    num_samples: int = 64
    sampler: SamplerName = "ddim"
    num_steps: int = 50
    seed: int = 0
    """Seed of the fixed noise and timesteps."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run."""

    preset: str = "paper"
    """Name of the preset this began as."""
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: LoopConfig = field(default_factory=LoopConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def validate(config: RunConfig) -> None:
    """Refuse values that no run can use.

    Raises:
        ConfigError: Names the setting, its value, and what it may be.
    """
    c = config
    rules = [
        (c.data.size > 0 and c.data.size % 8 == 0, "data.size", c.data.size, "a multiple of 8"),
        (c.data.batch_size > 0, "data.batch-size", c.data.batch_size, "at least 1"),
        (c.data.num_train is None or c.data.num_train > 0, "data.num-train", c.data.num_train, "at least 1"),
        (c.data.num_test is None or c.data.num_test > 0, "data.num-test", c.data.num_test, "at least 1"),
        (c.network.latent_channels > 0, "network.latent-channels", c.network.latent_channels, "at least 1"),
        (c.gate.hidden_channels > 0, "gate.hidden-channels", c.gate.hidden_channels, "at least 1"),
        (c.network.time_channels > 2 and c.network.time_channels % 2 == 0, "network.time-channels", c.network.time_channels, "an even number above 2"),
        (0 < c.gate.active_threshold < 1, "gate.active-threshold", c.gate.active_threshold, "between 0 and 1"),
        (c.noise.num_timesteps > 0, "noise.num-timesteps", c.noise.num_timesteps, "at least 1"),
        (0 < c.noise.beta_start <= c.noise.beta_end < 1, "noise.beta-start", c.noise.beta_start, "above 0 and at most noise.beta-end"),
        (c.optimizer.learning_rate > 0, "optimizer.learning-rate", c.optimizer.learning_rate, "above 0"),
        (c.optimizer.weight_decay >= 0, "optimizer.weight-decay", c.optimizer.weight_decay, "0 or more"),
        (c.optimizer.max_gradient_norm >= 0, "optimizer.max-gradient-norm", c.optimizer.max_gradient_norm, "0 or more"),
        (0 <= c.optimizer.ema_decay < 1, "optimizer.ema-decay", c.optimizer.ema_decay, "in [0, 1)"),
        (c.run.epochs > 0, "run.epochs", c.run.epochs, "at least 1"),
        (c.run.max_steps is None or c.run.max_steps > 0, "run.max-steps", c.run.max_steps, "at least 1"),
        (c.run.log_every > 0, "run.log-every", c.run.log_every, "at least 1"),
        (c.run.checkpoint_every is None or c.run.checkpoint_every > 0, "run.checkpoint-every", c.run.checkpoint_every, "at least 1"),
        (c.run.keep_checkpoints > 0, "run.keep-checkpoints", c.run.keep_checkpoints, "at least 1"),
        (c.evaluation.batch_size > 0, "evaluation.batch-size", c.evaluation.batch_size, "at least 1"),
        (c.evaluation.num_samples > 0, "evaluation.num-samples", c.evaluation.num_samples, "at least 1"),
        (0 < c.evaluation.num_steps <= c.noise.num_timesteps, "evaluation.num-steps", c.evaluation.num_steps, "from 1 to noise.num-timesteps"),
    ]  # fmt: skip
    for name in ("autoencoder_channels", "denoiser_channels"):
        width = getattr(c.network, name)
        rules.append(
            (width > 0 and width % 8 == 0, f"network.{name.replace('_', '-')}", width, "a multiple of 8")
        )
    for loss, weight in dataclasses.asdict(c.objective).items():
        rules.append((weight >= 0, f"objective.{loss.replace('_', '-')}", weight, "0 or more"))
    for holds, name, value, expected in rules:
        if not holds:
            raise ConfigError(f"--{name} is {value!r}: it must be {expected}.")


def settings_without_effect(config: RunConfig) -> list[str]:
    """One line for each setting that this run ignores, so that nobody is misled."""
    lines = []
    default = RunConfig()
    if config.gate.kind == "open":
        if config.objective.sparsity_weight:
            lines.append("objective.sparsity-weight has no effect: gate kind open has no mask to close.")
        if config.gate.initial_score != default.gate.initial_score:
            lines.append("gate.initial-score has no effect: gate kind open has no predictor.")
    if config.data.source == "photos" and config.data.path is not None:
        lines.append("data.path has no effect: source photos is embedded.")
    if config.data.source != "dataset" and (config.data.image_column or config.data.label_column):
        lines.append("data.image-column and data.label-column have effect for source dataset only.")
    return lines


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The config as nested plain values."""
    return dataclasses.asdict(config)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the config as JSON that `load_config` reads back."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n")


def load_config(path: Path) -> RunConfig:
    """Read a run's config.json.

    Raises:
        ConfigError: If the file is missing, is not JSON, or holds unknown or mistyped fields.
    """
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"No config at {path}: give the config.json of a run.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from error
    config = _from_dict(RunConfig, values, str(path))
    validate(config)
    return config


def _from_dict(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} should hold a JSON object, found {type(values).__name__}.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where} has the unknown field {unknown[0]!r}: known are {', '.join(hints)}.")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _from_dict(hints[name], value, f"{where}: {name}")  # type: ignore[arg-type]
        elif _fits(value, hints[name]):
            arguments[name] = value
        else:
            raise ConfigError(f"{where}: {name} is {value!r}, which is not {_describe(hints[name])}.")
    return cls(**arguments)


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return getattr(hint, "__name__", str(hint))
