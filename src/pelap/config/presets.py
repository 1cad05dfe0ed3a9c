"""Functions that return a whole `RunConfig`. `PRESETS` names them for the command line."""

import difflib
from collections.abc import Callable
from dataclasses import replace

from pelap.config.run_config import (
    AutoencoderConfig,
    DataConfig,
    EvaluationConfig,
    GateConfig,
    LoopConfig,
    NetworkConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from pelap.core.errors import ConfigError


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


def pelap() -> RunConfig:
    """Our objective on the paper's networks: 8 latent channels, of which 4 are kept.

    Latents are normalised, the decoder sees the mask, no gradient of the diffusion loss reaches the
    encoder, and a budget is met exactly. The autoencoder is trained first, then the denoiser.
    """
    return _cured(
        RunConfig(preset="pelap", data=DataConfig(source="cifar10")), budget=4, channels=8
    )


def pelap_small() -> RunConfig:
    """`pelap` at half width and few epochs: about an hour on two cores."""
    config = pelap()
    return replace(
        config,
        preset="pelap_small",
        network=replace(config.network, autoencoder_channels=32, denoiser_channels=64),
        run=replace(config.run, epochs=6, denoiser_epochs=12, channels_last=False),
    )


def kl16() -> RunConfig:
    """diffusers' AutoencoderKL with 16 channels and its UNet; `--gate.budget` by choice."""
    config = _cured(RunConfig(preset="kl16", data=DataConfig(source="cifar10")), None, channels=16)
    network = replace(config.network, autoencoder="kl", denoiser="unet_2d", denoiser_channels=128)
    return replace(config, network=network)


def kl16_small() -> RunConfig:
    """`kl16` at a quarter of the width and few epochs: about two hours on two cores."""
    config = kl16()
    return replace(
        config,
        preset="kl16_small",
        network=replace(config.network, autoencoder_channels=16, denoiser_channels=32),
        run=replace(config.run, epochs=6, denoiser_epochs=12, channels_last=False),
    )


def cifar_autoencoder() -> RunConfig:
    """An autoencoder for CIFAR-10 that keeps what things are: 16 channels, 1.7 million parameters.

    Absolute, squared and feature loss. An hour or two on two cores; the rate is constant until the
    last epochs, so that the run can be extended (`pelap resume RUN --run.epochs N`).
    """
    return RunConfig(
        preset="cifar_autoencoder",
        data=DataConfig(source="cifar10"),
        network=NetworkConfig(
            autoencoder="kl", latent_channels=16, autoencoder_channels=32, normalize_latents=True
        ),
        autoencoder=AutoencoderConfig(
            widths=(32, 64, 96), attention=False, absolute_weight=1.0, feature_weight=0.1
        ),
        gate=GateConfig(kind="open"),
        objective=ObjectiveConfig(kl_weight=1e-5, sparsity_weight=0.0),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            final_learning_rate=0.0,
            schedule="trapezoid",
            cooldown_epochs=8,
            warmup_steps=100,
            ema_decay=0.999,
        ),
        run=LoopConfig(epochs=20, denoiser_epochs=0, channels_last=False, checkpoint_every=200),
    )


def cifar() -> RunConfig:
    """A class-conditional flow transformer that draws CIFAR-10: 7.6 million parameters, 64 tokens.

    Take the autoencoder of a `cifar_autoencoder` run with `--run.autoencoder RUN`. Hours to days on
    two cores; the rate is constant, so extend it, or cool it down at any time.
    """
    config = cifar_autoencoder()
    return replace(
        config,
        preset="cifar",
        data=replace(config.data, batch_size=256),
        network=replace(
            config.network,
            denoiser="dit",
            denoiser_channels=192,
            denoiser_layers=8,
            num_classes=10,
        ),
        noise=NoiseConfig(process="flow"),
        optimizer=replace(
            config.optimizer,
            learning_rate=1e-3,
            cooldown_epochs=10.0,
            warmup_steps=500,
            ema_decay=0.9995,
        ),
        run=replace(
            config.run, denoiser_epochs=200, validate_every=2, samples_every=2, checkpoint_every=100
        ),
        evaluation=EvaluationConfig(
            num_samples=500, sampler="dpm-solver++", num_steps=20, guidance=2.0
        ),
    )


def _cured(config: RunConfig, budget: int | None, channels: int) -> RunConfig:
    return replace(
        config,
        network=NetworkConfig(latent_channels=channels, normalize_latents=True),
        gate=GateConfig(kind="top_k", adaptive=False, budget=budget, learning_rate_factor=30.0),
        objective=ObjectiveConfig(
            kl_weight=1e-4,
            sparsity_weight=0.0,
            decoder_sees_mask=True,
            encoder_diffusion_weight=0.0,
            open_channels_only=True,
        ),
        noise=NoiseConfig(prediction="v_prediction"),
        optimizer=OptimizerConfig(
            learning_rate=1e-3, ema_decay=0.999, schedule="step", warmup_steps=100
        ),
        run=replace(config.run, denoiser_epochs=config.run.epochs),
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
    preset.__name__: preset
    for preset in (
        paper,
        paper_baseline,
        paper_small,
        pelap,
        pelap_small,
        kl16,
        kl16_small,
        cifar_autoencoder,
        cifar,
        tiny,
        demo,
    )
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
