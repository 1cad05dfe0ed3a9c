"""Pictures for a model that is no run of ours: which, and at what size."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pelap.config.overrides import apply_overrides
from pelap.config.run_config import DataConfig, RunConfig
from pelap.core.errors import ConfigError, ModelError, foreign_errors
from pelap.data.load import load_pictures
from pelap.data.pictures import Splits, to_batch
from pelap.data.whole import NUM_NAMED
from pelap.families.registry import config_of, denoiser_families, denoiser_family
from pelap.models.foreign_autoencoder import ForeignAutoencoder
from pelap.models.loaded import LoadedModel

PROBE_SIZE = 64
NUM_COLOURS = 3
LEAST_LATENT_SIDE = 16
"""Of pictures for an autoencoder on its own that shrinks by more than 4."""


def pictures_config(model: LoadedModel, overrides: Sequence[str]) -> RunConfig:
    """The run's config, or defaults at the size the model was made for, with the overrides.

    Raises:
        ConfigError: If nothing says which pictures to take, or an override is wrong.
    """
    if model.config is not None:
        return apply_overrides(model.config, overrides)
    if "--data.source" not in " ".join(overrides):
        raise ConfigError(f"{model.name} names no pictures: give --data.source.")
    size = picture_size(model)
    return apply_overrides(RunConfig(data=DataConfig(size=size)), overrides, is_run=False)


def load_splits(model: LoadedModel, config: RunConfig, *, needs_train: bool = True) -> Splits:
    """Both splits, decoded at each fetch, tried once on the autoencoder.

    Raises:
        ConfigError: If the autoencoder cannot take pictures of that size.
        ModelError: If it is not one of colour pictures.
        DataError: If the pictures cannot be read.
    """
    _check_colours(model)
    data = replace(config.data, memory_gb=1e-9)
    if not needs_train:
        data = replace(data, num_train=1)
    splits = load_pictures(data, config.run.seed)
    image = to_batch(splits.test.fetch(torch.tensor([0])), "cpu")
    refused = f"{model.name} cannot take pictures of {config.data.size} pixels"
    with foreign_errors(lambda why: ConfigError(f"{refused} ({why}): give another --data.size.")):
        side = _try(model, image)
    most = _largest_side(model)
    if most is not None and side > most:
        raise ConfigError(
            f"{refused}: its denoiser takes at most {most * config.data.size // side}. Give a "
            "smaller --data.size."
        )
    return splits


def _largest_side(model: LoadedModel) -> int | None:
    denoiser = model.denoiser
    if denoiser is None or type(denoiser).__name__ not in denoiser_families():
        return None
    return denoiser_family(denoiser).largest_side(config_of(denoiser))


@torch.no_grad()
def _try(model: LoadedModel, image: Tensor) -> int:
    """Encode and decode a picture (1, 3, S, S).

    Returns:
        The side of its latents.
    """
    autoencoder = ForeignAutoencoder(model.autoencoder)
    parameter = next(model.autoencoder.parameters())
    image = image.to(parameter.device, parameter.dtype)
    latents = autoencoder.encode(image).latent_dist.mean
    decoded = autoencoder.decode(latents).sample
    if decoded.shape != image.shape:
        raise ValueError(f"they come back as {tuple(decoded.shape[2:])}")
    return latents.shape[-1]


def _check_colours(model: LoadedModel) -> None:
    config: Any = getattr(model.autoencoder, "config", {})
    for name in ("in_channels", "out_channels"):
        channels = config.get(name, NUM_COLOURS)
        if channels != NUM_COLOURS:
            raise ModelError(
                f"{model.name} is an autoencoder of pictures with {channels} channels; only those "
                f"with {NUM_COLOURS} can be measured. `pelap prune --keep 0,1` needs no pictures."
            )


@torch.no_grad()
def picture_size(model: LoadedModel) -> int:
    """Side in pixels of the pictures that a model was made for, or can be measured on.

    Raises:
        ModelError: If it is not one of colour pictures.
    """
    _check_colours(model)
    parameter = next(model.autoencoder.parameters())
    image = torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, dtype=parameter.dtype)
    latents = ForeignAutoencoder(model.autoencoder).encode(image.to(parameter.device))
    factor = PROBE_SIZE // latents.latent_dist.mean.shape[-1]
    config: Any = getattr(model.denoiser, "config", {})
    side = config.get("sample_size")
    if isinstance(side, int):
        return side * factor
    return DataConfig.size if factor <= 4 else LEAST_LATENT_SIDE * factor


def describe_pictures(config: RunConfig, splits: Splits) -> str:
    """Source, size and what was left out in words, for cards and JSON; a local path by its last
    part only."""
    path = f" {Path(config.data.path).name}" if config.data.path else ""
    said, out = f"{config.data.source}{path}, {config.data.size} pixels", splits.left_out
    if not out:
        return said
    more = f" and {len(out) - NUM_NAMED:,} more" if len(out) > NUM_NAMED else ""
    return f"{said}, without {len(out):,} broken: {', '.join(out[:NUM_NAMED])}{more}"
