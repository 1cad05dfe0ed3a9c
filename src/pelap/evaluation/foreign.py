"""Unconditional latent diffusion pipelines of diffusers as our system, to measure them alike."""

from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors import SafetensorError

from pelap.errors import RunError
from pelap.latent import read_statistics
from pelap.models.loaded import PREDICTIONS
from pelap.models.opening import AUTOENCODER_NAMES, DENOISER_NAMES, read_json
from pelap.networks.foreign import ForeignAutoencoder
from pelap.system import LatentDiffusion

SUPPORTED = (
    "supported is an autoencoder (vae, vqvae, autoencoder) with an unconditional UNet2DModel "
    "(unet, denoiser) and a scheduler with betas"
)


def load_foreign(folder: Path) -> LatentDiffusion:
    """The pipeline at `folder` as a system: `scaling_factor` and the like become its normaliser.

    Only safetensors and classes of diffusers itself are read, never code.

    Args:
        folder: With model_index.json and a folder for each part.

    Raises:
        RunError: If it is conditional or of an unknown kind. One line.
        ModelError: If it is incomplete.
    """
    parts = read_json(folder / "model_index.json")
    autoencoder_name = _find_part(folder, parts, AUTOENCODER_NAMES, "autoencoder")
    denoiser_name = _find_part(folder, parts, DENOISER_NAMES, "denoiser")
    if parts[denoiser_name][1] != UNet2DModel.__name__:
        kind = parts[denoiser_name][1]
        raise RunError(f"{folder}: the denoiser {kind} is not supported; {SUPPORTED}.")
    scheduler = _read_scheduler(folder)
    autoencoder: Any = ForeignAutoencoder(_load_part(folder, parts, autoencoder_name))
    denoiser = _load_part(folder, parts, denoiser_name)
    _check_denoiser(folder, denoiser.config, autoencoder.config["latent_channels"])
    normalizer = read_statistics(autoencoder)
    return LatentDiffusion(autoencoder, denoiser, None, None, scheduler, normalizer)


def picture_size(system: LatentDiffusion) -> int | None:
    """Side in pixels of the pictures a foreign pipeline was made for; None if it does not say."""
    levels = dict(system.autoencoder.config).get("block_out_channels")
    side = dict(system.denoiser.config).get("sample_size")
    if not levels or not isinstance(side, int):
        return None
    return side * 2 ** (len(levels) - 1)


def _find_part(folder: Path, parts: dict[str, Any], names: tuple[str, ...], kind: str) -> str:
    for name in names:
        part = parts.get(name)
        if isinstance(part, list) and len(part) == 2 and part[1] is not None:
            return name
    raise RunError(f"{folder / 'model_index.json'} names no {kind}; {SUPPORTED}.")


def _load_part(folder: Path, parts: dict[str, Any], name: str) -> Any:
    library, kind = parts[name]
    part_class = getattr(diffusers, str(kind), None) if library == "diffusers" else None
    if part_class is None or not issubclass(part_class, diffusers.ModelMixin):
        raise RunError(f"{folder}: {name} is {library}.{kind}, no model of diffusers; {SUPPORTED}.")
    try:
        return part_class.from_pretrained(
            folder / name, use_safetensors=True, local_files_only=True
        ).eval()
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"{folder / name} cannot be loaded (only safetensors are): {reason}"
        ) from error


def _check_denoiser(folder: Path, config: Any, num_channels: int) -> None:
    if config.get("num_class_embeds") or config.get("class_embed_type"):
        raise RunError(f"{folder}: the denoiser needs a class as condition; {SUPPORTED}.")
    if (config["in_channels"], config["out_channels"]) != (num_channels, num_channels):
        raise RunError(
            f"{folder}: the denoiser turns {config['in_channels']} channels into "
            f"{config['out_channels']}, but the latents have {num_channels}; {SUPPORTED}."
        )


def _read_scheduler(folder: Path) -> DDPMScheduler:
    """The forward process that the pipeline's scheduler undoes, whichever sampler it is."""
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    prediction = config.get("prediction_type", "epsilon")
    if "beta_start" not in config or config.get("use_flow_sigmas"):
        kind = config.get("_class_name")
        raise RunError(f"{folder}: the scheduler {kind} has no betas; {SUPPORTED}.")
    if prediction not in PREDICTIONS:
        raise RunError(
            f"{folder}: the denoiser predicts {prediction!r}; known are {', '.join(PREDICTIONS)}."
        )
    try:
        scheduler = DDPMScheduler.from_config(config | {"clip_sample": False})
    except NotImplementedError as error:
        raise RunError(f"{folder}: {error}.") from error
    assert isinstance(scheduler, DDPMScheduler)
    return scheduler
