"""Run a text- or class-conditional denoiser without its condition.

What its pipeline passes to it for an empty prompt, or for the class that means none, is caught at
the first step and passed again with every batch.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from pelap.core.errors import ModelError, in_one_line, is_out_of_memory
from pelap.families.conditioned import Condition, class_condition
from pelap.families.family import Inputs
from pelap.families.registry import config_of, denoiser_family, example_inputs
from pelap.models.loaded import LoadedModel, is_flow, runs_on_latents

FIXED: dict[str, object] = {
    "num_inference_steps": 2,
    "output_type": "latent",
    "use_resolution_binning": False,
    "clean_caption": False,
}
"""Arguments of a pipeline's call, where it has them."""


class _Caught(Exception):
    """Ends a pipeline's call at its denoiser."""

    def __init__(self, arguments: Inputs):
        super().__init__("caught")
        self.arguments = arguments


def without_condition(model: LoadedModel, size: int) -> LoadedModel:
    """The model with what its own pipeline tells its denoiser when it is asked for nothing.

    Args:
        model: With a denoiser, opened from a pipeline's folder. One that needs no condition is
            given back as it is.
        size: Of the pictures, in pixels.

    Raises:
        ModelError: If its pipeline cannot be called, or knows no class for none.
    """
    denoiser = model.denoiser
    if denoiser is None or runs_on_latents(denoiser):
        return model
    if has_only_classes(denoiser):
        if model.config is None:
            raise ModelError(
                f"The denoiser of {model.name} needs a class and has none that means none."
            )
        return told_a_class(model)
    if not model.parts:
        raise ModelError(f"{model.name} is no pipeline: there is nobody to ask for its condition.")
    pipeline = model.pipeline()
    family = denoiser_family(denoiser)
    others, passed = caught_arguments(model, pipeline, [""], size)
    if "class_labels" in example_inputs(denoiser) and others.get("class_labels") is None:
        raise ModelError(
            f"The pipeline of {model.name} passes no class_labels, without which its denoiser "
            "cannot be run."
        )
    condition = Condition(
        others,
        family.latents_name,
        is_flow=is_flow(model.scheduler_config),
        timestep_scale=passed / float(pipeline.scheduler.timesteps[0]),
        packing=family.packing,
        shared=family.shared_inputs,
    )
    return replace(model, condition=condition)


def has_only_classes(denoiser: nn.Module) -> bool:
    """Whether only a run here has taught it a class that means none."""
    config = config_of(denoiser)
    family = denoiser_family(denoiser)
    return family.num_classes(config) != family.none_class(config)


def told_a_class(model: LoadedModel) -> LoadedModel:
    """The model under its last class, that of runs here for none; whoever calls it names another.

    There is no pipeline to ask: those of diffusers pass this denoiser no class.
    """
    assert model.denoiser is not None
    flows = is_flow(model.scheduler_config)
    if model.config is not None:
        flows = model.config.noise.process == "flow"
    return replace(model, condition=class_condition(model.denoiser, is_flow=flows))


def caught_arguments(
    model: LoadedModel, pipeline: DiffusionPipeline, prompts: Sequence[str], size: int
) -> tuple[Inputs, float]:
    """What a pipeline passes to its denoiser at the first step, and the timestep it passes.

    Args:
        model: With a denoiser.
        pipeline: The model's own.
        prompts: For a denoiser that takes text; one that takes classes is told none.
        size: Of the pictures, in pixels.

    Returns:
        Arguments of its forward but for latents and timestep, a row a prompt; the timestep.

    Raises:
        ModelError: If the pipeline cannot be called.
    """
    assert model.denoiser is not None
    pipeline.set_progress_bar_config(disable=True)
    request = _request(pipeline, model.denoiser, prompts, size)
    arguments = _catch(pipeline, model.denoiser, request, model.name)
    own = (denoiser_family(model.denoiser).latents_name, "timestep", "return_dict")
    passed = torch.as_tensor(arguments["timestep"]).flatten()[0]
    return {name: arguments[name] for name in arguments if name not in own}, float(passed)


def _request(
    pipeline: DiffusionPipeline, denoiser: nn.Module, prompts: Sequence[str], size: int
) -> Inputs:
    taken = inspect.signature(pipeline.__call__).parameters
    config = config_of(denoiser)
    asked = {**FIXED, "height": size, "width": size, "prompt": list(prompts)}
    if not config.get("guidance_embeds"):  # otherwise the scale is an input, not a second call
        asked["guidance_scale"] = 1.0
    if "class_labels" in taken:
        asked["class_labels"] = [denoiser_family(denoiser).none_class(config)]
    return {name: value for name, value in asked.items() if name in taken}


@torch.no_grad()
def _catch(pipeline: Any, denoiser: nn.Module, request: Inputs, name: str) -> Inputs:
    """Arguments of the denoiser's first call, by name, its latents first."""
    signature = inspect.signature(denoiser.forward)

    def stop(_module: nn.Module, args: tuple[object, ...], kwargs: Inputs) -> None:
        raise _Caught(dict(signature.bind(*args, **kwargs).arguments))

    handle = denoiser.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pipeline(**request)
    except _Caught as caught:
        return caught.arguments
    except Exception as error:  # of whatever it makes of its parts' configs
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"The pipeline of {name} cannot be asked for nothing ({in_one_line(error)}), so its "
            "denoiser cannot be run."
        ) from error
    finally:
        handle.remove()
    raise ModelError(f"The pipeline of {name} never calls its denoiser.")
