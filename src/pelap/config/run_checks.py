"""What a run's settings may be, by themselves and beside each other; no torch here."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pelap.config.run_config import Limit, RunConfig
from pelap.core.errors import ConfigError
from pelap.core.records import read_record

FLOW_TIMESTEPS = 1000
LEAST_SIZE = 16
"""A paper denoiser's norms need more than one place at half of the latents' resolution."""
MOST, MOST_SEED, MOST_FLOAT = 2**31, 2**63 - 1, 3.4e38
"""Largest numbers that settings can be."""
MOST_CLASSES = 1000
"""diffusers' DiTPipeline takes class 1000 for none, whatever the model."""


def validate(config: RunConfig) -> None:
    """Refuse values that no run can use.

    Raises:
        ConfigError: Names the setting, its value, and what it must be.
    """
    check_limits(config)
    if config.network.denoiser == "paper" and config.data.size < LEAST_SIZE:
        raise ConfigError(
            f"--data.size is {config.data.size}: it must be at least {LEAST_SIZE} for "
            "--network.denoiser paper."
        )
    if config.data.size % 8:
        raise ConfigError(f"--data.size is {config.data.size}: it must be a multiple of 8.")
    _validate_autoencoder(config)
    _validate_denoiser(config)
    if config.noise.beta_start > config.noise.beta_end:
        raise ConfigError("--noise.beta-start must be at most --noise.beta-end.")
    budget, channels = config.gate.budget, config.network.latent_channels
    if budget is not None and budget > channels:
        raise ConfigError(
            f"--gate.budget is {budget}: it must be at most the {channels} latent channels."
        )
    if config.gate.warmup > config.gate.harden_at:
        raise ConfigError("--gate.warmup must be at most --gate.harden-at.")
    if config.run.autoencoder is not None and not config.run.denoiser_epochs:
        raise ConfigError(
            "--run.autoencoder needs --run.denoiser-epochs: only the denoiser is trained."
        )
    steps, most = config.evaluation.num_steps, config.noise.num_timesteps
    if steps > most:
        raise ConfigError(f"--evaluation.num-steps is {steps}: it must be at most {most}.")


def check_limits(config: RunConfig) -> None:
    """Refuse values that are out of range by themselves, whatever the others are.

    Raises:
        ConfigError: Names the setting, its value, and what it must be.
    """
    for name, value, limit in _limited(config):
        if value is not None and not limit.holds(value):
            raise ConfigError(f"{as_option(name)} is {value!r}: it must be {limit.expected}.")
    for name, value in _numbers(config):
        most = MOST_FLOAT if isinstance(value, float) else MOST
        most = MOST_SEED if name.endswith(".seed") else most
        if not abs(value) <= most:
            raise ConfigError(f"{as_option(name)} is {value!r}: it must be at most {most:.3g}.")


def _numbers(config: RunConfig) -> Iterator[tuple[str, int | float]]:
    for group in dataclasses.fields(config):
        values = getattr(config, group.name)
        if dataclasses.is_dataclass(values):
            for name, value in vars(values).items():
                if isinstance(value, int | float):
                    yield f"{group.name}.{name}", value


def _limited(config: RunConfig) -> Iterator[tuple[str, Any, Limit]]:
    for group in dataclasses.fields(config):
        values = getattr(config, group.name)
        if dataclasses.is_dataclass(values):
            for name, hint in get_type_hints(type(values), include_extras=True).items():
                for limit in getattr(hint, "__metadata__", ()):
                    yield f"{group.name}.{name}", getattr(values, name), limit


def _validate_autoencoder(config: RunConfig) -> None:
    own = config.autoencoder
    if config.network.autoencoder == "paper" and (own.widths is not None or not own.attention):
        raise ConfigError(
            "--autoencoder.widths and --autoencoder.no-attention need --network.autoencoder kl."
        )
    if own.feature_weight and config.data.size != 32:
        raise ConfigError(
            f"--autoencoder.feature-weight needs --data.size 32 (now {config.data.size}): its "
            "features are those of a network for 32×32 pictures."
        )


def _validate_denoiser(config: RunConfig) -> None:
    network, side = config.network, config.data.size // 4
    if network.denoiser == "paper" and network.num_classes:
        raise ConfigError("--network.num-classes needs --network.denoiser dit or unet_2d.")
    if network.denoiser == "unet_2d" and network.denoiser_channels < 16:
        raise ConfigError(
            f"--network.denoiser-channels is {network.denoiser_channels}: it must be at least 16 "
            "for --network.denoiser unet_2d, whose attention heads have 32."
        )
    if network.denoiser != "dit":
        if config.noise.process == "flow":
            raise ConfigError("--noise.process flow needs --network.denoiser dit.")
        return
    if config.noise.process == "flow" and config.noise.num_timesteps != FLOW_TIMESTEPS:
        raise ConfigError(
            f"--noise.num-timesteps is {config.noise.num_timesteps}: a flow has {FLOW_TIMESTEPS}."
        )
    if not 1 <= network.num_classes <= MOST_CLASSES:
        raise ConfigError(
            f"--network.num-classes is {network.num_classes}: --network.denoiser dit needs 1 to "
            f"{MOST_CLASSES}."
        )
    if network.denoiser_channels % 64:
        raise ConfigError(
            f"--network.denoiser-channels is {network.denoiser_channels}: it must be a multiple "
            "of 64 for --network.denoiser dit."
        )
    if side % network.patch_size:
        raise ConfigError(
            f"--network.patch-size is {network.patch_size}: it must divide the latents' side, "
            f"{side}."
        )
    if config.gate.kind != "open":
        raise ConfigError("--network.denoiser dit needs --gate.kind open; `pelap prune` removes.")


def as_option(name: str) -> str:
    """`group.field_name` as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def settings_without_effect(config: RunConfig) -> list[str]:
    """One line for each setting that this run ignores, so that nobody is misled."""
    lines = []
    default = RunConfig()
    if config.gate.kind == "open":
        if config.objective.sparsity_weight:
            lines.append(
                "objective.sparsity-weight has no effect: gate kind open has no mask to close."
            )
        if config.gate.initial_score != default.gate.initial_score:
            lines.append("gate.initial-score has no effect: gate kind open has no predictor.")
    gate = config.gate
    schedule = (gate.warmup, gate.harden_at)
    if gate.budget is None and schedule != (default.gate.warmup, default.gate.harden_at):
        lines.append("gate.warmup and gate.harden-at have effect with a gate.budget only.")
    if config.run.latent_cache is not None and config.run.denoiser_epochs is None:
        lines.append("run.latent-cache has effect with run.denoiser-epochs only.")
    if gate.kind == "open" and gate.budget is not None:
        lines.append("gate.budget has no effect: gate kind open keeps every channel.")
    if gate.full_fraction and gate.kind != "nested":
        lines.append("gate.full-fraction has effect for gate kind nested only.")
    network = config.network
    if network.denoiser != "paper" and network.time_channels != default.network.time_channels:
        lines.append("network.time-channels has effect for denoiser paper only.")
    if network.denoiser == "paper" and network.denoiser_layers != default.network.denoiser_layers:
        lines.append("network.denoiser-layers has effect for denoiser unet_2d and dit only.")
    if network.num_classes == 0 and config.evaluation.guidance != default.evaluation.guidance:
        lines.append("evaluation.guidance has effect with network.num-classes only.")
    if config.optimizer.cooldown_epochs and config.optimizer.schedule != "trapezoid":
        lines.append("optimizer.cooldown-epochs has effect for schedule trapezoid only.")
    if config.data.source == "photos" and config.data.path is not None:
        lines.append("data.path has no effect: source photos is embedded.")
    if config.data.source != "dataset" and (config.data.image_column or config.data.label_column):
        lines.append("data.image-column and data.label-column have effect for source dataset only.")
    return lines


def load_config(path: Path) -> RunConfig:
    """Read a run's config.json.

    Raises:
        ConfigError: If the file is missing, is not JSON, or holds unknown or mistyped fields.
    """
    try:
        config = read_record(RunConfig, path, ConfigError)
    except OSError as error:
        raise ConfigError(f"No config at {path}: give the config.json of a run.") from error
    validate(config)
    return config
