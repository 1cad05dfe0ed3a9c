"""Latent diffusion pipelines of diffusers, and why others cannot be measured."""

from pathlib import Path

from pelap.core.errors import RunError
from pelap.families.registry import config_of, denoiser_families
from pelap.models.conditions import wants_condition
from pelap.models.loaded import PREDICTIONS, LoadedModel, read_forward_process
from pelap.models.opening import DENOISER_NAMES, find_part, open_model, read_json

SUPPORTED = (
    "supported is an autoencoder (vae, vqvae, autoencoder) with a denoiser of a class that pelap "
    "knows and a scheduler with betas or of a flow (docs/families.md)"
)


def open_foreign(folder: Path) -> LoadedModel:
    """The pipeline at `folder`, checked to run on latents alone, or with what pictures say of it.

    Args:
        folder: With model_index.json and a folder for each part.

    Raises:
        RunError: If it is of an unknown kind. One line.
        ModelError: If it is incomplete, or holds no safetensors.
    """
    parts = read_json(folder / "model_index.json")
    name = find_part(parts, DENOISER_NAMES)
    if name is None:
        raise RunError(f"{folder / 'model_index.json'} names no denoiser; {SUPPORTED}.")
    kind = parts[name][1]
    if kind not in denoiser_families():
        raise RunError(f"{folder}: the denoiser {kind} is not supported; {SUPPORTED}.")
    model = open_model(folder)
    if wants_condition(model):
        return model
    config = config_of(model.denoiser)
    num_channels, scheduler = model.num_channels, model.scheduler_config
    if (config["in_channels"], config["out_channels"]) != (num_channels, num_channels):
        raise RunError(
            f"{folder}: the denoiser turns {config['in_channels']} channels into "
            f"{config['out_channels']}, but the latents have {num_channels}; {SUPPORTED}."
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if "beta_start" in scheduler and prediction not in PREDICTIONS:
        raise RunError(
            f"{folder}: the denoiser predicts {prediction!r}; known are {', '.join(PREDICTIONS)}."
        )
    if read_forward_process(scheduler) is None:
        kind = scheduler.get("_class_name")
        raise RunError(f"{folder}: the scheduler {kind} has no betas; {SUPPORTED}.")
    return model
