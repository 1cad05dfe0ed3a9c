"""Functions that return a whole `RunConfig`. `PRESETS` names them for the command line."""

import difflib
from collections.abc import Callable
from dataclasses import replace

from pelap.config import (
    DataConfig,
    EvaluationConfig,
    GateConfig,
    LoopConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
)
from pelap.errors import ConfigError


def paper() -> RunConfig:
    """PeLAP-A as published (arXiv 2606.23086): CIFAR-10, 100 epochs, λ = 0.01."""
    return RunConfig(preset="paper", data=DataConfig(source="cifar10"))


def paper_baseline() -> RunConfig:
    """The paper's baseline: the same networks and recipe with mask 1."""
    return as_baseline(paper())


def paper_small() -> RunConfig:
    """The paper at half width and 6 epochs: 20 to 30 minutes a run on two cores."""
    config = paper()
    return replace(
        config,
        preset="paper_small",
        network=NetworkConfig(autoencoder_channels=32, denoiser_channels=32),
        run=replace(config.run, epochs=6),
    )


def tiny() -> RunConfig:
    """Seconds on one core, for tests: embedded photographs, narrow networks, two epochs."""
    return RunConfig(
        preset="tiny",
        data=DataConfig(source="photos", size=16, batch_size=16, num_train=320, num_test=64),
        network=NetworkConfig(autoencoder_channels=8, denoiser_channels=8, time_channels=16),
        run=LoopConfig(epochs=2, log_every=1, precision="fp32"),
        evaluation=EvaluationConfig(batch_size=32, num_samples=8, num_steps=5),
    )


def demo() -> RunConfig:
    """The paper's method on embedded photographs: a minute a run on two cores, no download.

    Narrow networks and five times the paper's learning rate, so that 400 steps show the collapse.
    """
    return RunConfig(
        preset="demo",
        data=DataConfig(source="photos", batch_size=64, num_train=3200, num_test=512),
        network=NetworkConfig(autoencoder_channels=16, denoiser_channels=16, time_channels=32),
        optimizer=OptimizerConfig(learning_rate=1e-3, final_learning_rate=5e-5),
        run=LoopConfig(epochs=8, log_every=10, channels_last=False),
        evaluation=EvaluationConfig(num_samples=32),
    )


def as_baseline(config: RunConfig) -> RunConfig:
    """The same run with every mask 1 and no sparsity term."""
    return replace(
        config,
        preset=f"{config.preset}_baseline",
        gate=GateConfig(kind="open"),
        objective=replace(config.objective, sparsity_weight=0.0),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    preset.__name__: preset for preset in (paper, paper_baseline, paper_small, tiny, demo)
}


def get_preset(name: str) -> RunConfig:
    """The preset of that name.

    Raises:
        ConfigError: If there is none; suggests the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"Unknown preset {name!r}: known are {', '.join(PRESETS)}.{hint}")
    return PRESETS[name]()
