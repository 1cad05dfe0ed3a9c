"""Pictures drawn by a model's own stock pipeline."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from pelap.core.errors import ModelError, foreign_errors
from pelap.families.family import Inputs

QUIET: Inputs = {"use_resolution_binning": False, "clean_caption": False}
"""Arguments of a pipeline's call, where it has them."""


@dataclass(frozen=True)
class DrawingRequest:
    """How a pipeline draws."""

    size: int | None
    """Of the pictures, in pixels; None is the pipeline's own."""
    guidance: float | None = None
    """The pipeline's own by default."""
    num_steps: int | None = None
    """The pipeline's own by default."""


@torch.no_grad()
def draw(
    pipeline: DiffusionPipeline,
    asked: Sequence[str] | Sequence[int] | None,
    generators: Sequence[torch.Generator],
    how: DrawingRequest,
    **others: Any,
) -> list[Image.Image]:
    """One picture for each generator: it depends on what is asked and on that generator alone.

    Args:
        pipeline: From `LoadedModel.pipeline`.
        asked: A prompt or a class for each picture; None for a pipeline that is told nothing.
        generators: Of the noise, on the CPU.
        how: Size, guidance and steps.
        **others: Further arguments of its call, e.g. `latents`.

    Raises:
        ModelError: If the pipeline cannot be called so.
    """
    request = {"height": how.size, "width": how.size, "generator": list(generators)}
    request |= {"num_inference_steps": how.num_steps, "guidance_scale": how.guidance}
    if asked is None:
        request["batch_size"] = len(generators)
    else:
        taken = inspect.signature(pipeline.__call__).parameters
        request["class_labels" if "class_labels" in taken else "prompt"] = list(asked)
    return call_pipeline(pipeline, request | others)


def call_pipeline(pipeline: Any, request: Inputs) -> list[Any]:
    """The pictures of one call, as many as are asked for.

    Args:
        pipeline: Of diffusers.
        request: Arguments of its call; those that are None, or that it does not take, are left out.

    Raises:
        ModelError: If it cannot be called so.
    """
    taken = inspect.signature(pipeline.__call__).parameters
    asked = {k: v for k, v in (QUIET | request).items() if k in taken and v is not None}
    pipeline.set_progress_bar_config(disable=True)
    kind = type(pipeline).__name__
    with foreign_errors(lambda why: ModelError(f"{kind} cannot draw pictures ({why}).")):
        return list(pipeline(**asked).images)
