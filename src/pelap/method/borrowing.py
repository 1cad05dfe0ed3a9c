"""Weights of another run, and the budget of a gate that was trained before."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.pipelines.dit.pipeline_dit import DiTPipeline

from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError, in_one_line
from pelap.families.conditioned import bare
from pelap.families.registry import denoiser_family
from pelap.method.gates import NestedGate
from pelap.method.normalizer import fold_normalizer, read_statistics
from pelap.method.pipeline import is_autoencoder, load_autoencoder, load_pipeline, to_system
from pelap.method.system import LATENT_FACTOR, LatentDiffusion

SETTLED = 1000
"""Batches that statistics taken from another run count as."""


def take_autoencoder(system: LatentDiffusion, path: Path, budget: int | None) -> None:
    """Put another run's autoencoder, normaliser, importance predictor and gate into the system.

    Args:
        system: Keeps its denoiser.
        path: A run, the model folder of one, or the folder of an AutoencoderKL.
        budget: Harden the gate to so many channels, if it has not been yet or is nested.

    Raises:
        ConfigError: If their latents differ in number of channels, or the gate cannot be hardened.
        RunError: If there is no model at `path`.
    """
    source = _load_for(path, system)
    theirs = source.autoencoder.config["latent_channels"]
    ours = system.autoencoder.config["latent_channels"]
    if theirs != ours:
        raise ConfigError(
            f"--run.autoencoder {path} has {theirs} latent channels: "
            f"give --network.latent-channels {theirs} (now {ours})."
        )
    _check_autoencoder(system, source, path)
    system.autoencoder = source.autoencoder
    system.importance, system.gate = source.importance, source.gate
    system.normalizer = source.normalizer
    harden(system, budget)


def _check_autoencoder(system: LatentDiffusion, source: LatentDiffusion, path: Path) -> None:
    levels = source.autoencoder.config.get("block_out_channels")
    if levels is not None and 2 ** (len(levels) - 1) != LATENT_FACTOR:
        raise ConfigError(
            f"--run.autoencoder {path} shrinks pictures by {2 ** (len(levels) - 1)}: runs here "
            f"need {LATENT_FACTOR}."
        )
    family = denoiser_family(bare(system.denoiser))
    is_folded = family.stock_pipeline == DiTPipeline.__name__
    if is_folded and source.normalizer is not None:
        try:  # before training, what saving will do
            fold_normalizer(source.normalizer, copy.deepcopy(source.autoencoder))
        except ValueError as error:
            raise ConfigError(f"--run.autoencoder {path} cannot be saved: {error}") from error


def begin_with(system: LatentDiffusion, path: Path, *, autoencoder: bool, denoiser: bool) -> None:
    """Copy weights of another run into networks that are to be trained.

    Args:
        system: Takes them.
        path: A run, the model folder of one, or the folder of an AutoencoderKL.
        autoencoder: Whether to copy those of the autoencoder, with its normaliser.
        denoiser: Whether to copy those of the denoiser.

    Raises:
        ConfigError: If the networks have other shapes.
        RunError: If there is no model at `path`.
    """
    if denoiser and not autoencoder and is_autoencoder(path):
        raise ConfigError(
            f"--run.begin-with {path} is an autoencoder alone, and only a denoiser is trained."
        )
    source = _load_for(path, system)
    pairs = []
    if autoencoder:
        pairs.append((system.autoencoder, source.autoencoder))
        if source.normalizer is not None:
            if system.normalizer is None:
                raise ConfigError(
                    f"--run.begin-with {path} was trained with --network.normalize-latents."
                )
            pairs.append((system.normalizer, source.normalizer))
    if denoiser:
        pairs.append((bare(system.denoiser), bare(source.denoiser)))
    for ours, theirs in pairs:
        try:
            ours.load_state_dict(theirs.state_dict())
        except RuntimeError as error:
            reason = in_one_line(error)
            raise ConfigError(f"--run.begin-with {path} has other weights ({reason}).") from error
    if autoencoder and system.normalizer is not None and source.normalizer is not None:
        system.normalizer.num_batches.fill_(SETTLED)


def _load_for(path: Path, system: LatentDiffusion) -> LatentDiffusion:
    """The networks at `path`; an autoencoder on its own comes with the system's denoiser."""
    if is_autoencoder(path):
        autoencoder: Any = load_autoencoder(path)
        return LatentDiffusion(
            autoencoder,
            system.denoiser,
            None,
            None,
            system.scheduler,
            read_statistics(autoencoder),
            system.options,
        )
    model = path if (path / "model_index.json").is_file() else path / "model"
    config = replace(RunConfig(), objective=system.options)
    return to_system(load_pipeline(model), config)


def harden(system: LatentDiffusion, budget: int | None) -> None:
    """Open exactly `budget` channels, where the system's gate can still decide that.

    Raises:
        ConfigError: If there is no gate, or it has been hardened to another number.
    """
    if budget is None:
        return
    gate = system.gate
    if gate is None:
        raise ConfigError(f"--gate.budget is {budget}: this model has no gate to meet it with.")
    if gate.is_hard and int(gate.num_kept) != budget and not isinstance(gate, NestedGate):
        raise ConfigError(
            f"--gate.budget is {budget}: this gate was hardened to {int(gate.num_kept)} channels; "
            "only nested gates serve other budgets afterwards."
        )
    gate.harden(budget)


def meet_budget(system: LatentDiffusion, budget: int | None, own: int | None) -> None:
    """Open `budget` channels for an evaluation, where that is not what the model does anyway.

    Args:
        system: The model.
        budget: Asked for.
        own: What the model was trained with.

    Raises:
        ConfigError: If it cannot: only nested gates serve several budgets.
    """
    if budget != own or isinstance(system.gate, NestedGate):
        harden(system, budget)
