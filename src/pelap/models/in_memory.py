"""Pipelines in memory: a model from one, and one from a model, without a file."""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.utils import logging

from pelap.core.errors import ModelError
from pelap.models.loaded import LoadedModel


def read_pipeline(
    pipeline: DiffusionPipeline, autoencoder_name: str | None, denoiser_name: str | None
) -> LoadedModel:
    """The model that a pipeline holds; its networks are shared, not copied.

    Args:
        pipeline: Any; where its networks came from does not matter.
        autoencoder_name: Of its part; None if there is none.
        denoiser_name: Likewise of the denoiser.

    Raises:
        ModelError: If it holds no autoencoder.
    """
    parts = pipeline.components
    kind = type(pipeline).__name__
    if autoencoder_name is None:
        raise ModelError(f"This {kind} holds no autoencoder.")
    config: Any = pipeline.config
    index = {name: list(value) if isinstance(value, tuple) else value
             for name, value in config.items() if name != "_name_or_path"}  # fmt: skip
    index |= {"_class_name": kind, "_diffusers_version": diffusers.__version__}
    scheduler = parts.get("scheduler")
    return LoadedModel(
        Path(config.get("_name_or_path") or kind).name,
        parts[autoencoder_name],
        parts[denoiser_name] if denoiser_name else None,
        parts=index,
        autoencoder_name=autoencoder_name,
        denoiser_name=denoiser_name or "",
        scheduler_config={} if scheduler is None else json.loads(scheduler.to_json_string()),
        memory=pipeline,
    )


def make_pipeline(model: LoadedModel) -> DiffusionPipeline:
    """The model as its own stock pipeline, in memory; nothing is written.

    Raises:
        ModelError: If it is an autoencoder on its own, or its other parts cannot be loaded.
    """
    if not model.parts:
        raise ModelError(f"{model.name} is no pipeline, but an autoencoder on its own.")
    own: dict[str, Any] = {model.autoencoder_name: model.autoencoder}
    if model.denoiser is not None:
        own[model.denoiser_name] = model.denoiser
    if model.memory is not None:
        kind = type(model.memory)
        config: Any = model.memory.config
        known = {**config, **model.memory.components, **own}
        taken = inspect.signature(kind.__init__).parameters
        return kind(**{name: value for name, value in known.items() if name in taken})
    if model.parts["_class_name"] == "LDMPipeline" and model.config is not None:
        scheduler = DDIMScheduler.from_config(model.scheduler_config)
        return diffusers.LDMPipeline(scheduler=scheduler, **own)  # type: ignore[arg-type]
    if model.folder is None:
        raise ModelError(f"{model.name} has no folder to take its other parts from.")
    logging.disable_progress_bar()
    try:
        return DiffusionPipeline.from_pretrained(
            model.folder, use_safetensors=True, local_files_only=True, variant=model.variant, **own
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(f"{model.name} cannot be loaded whole: {line}") from error
    finally:
        logging.enable_progress_bar()
