"""What a run saves in model/: a diffusers pipeline, to and from the system that was trained."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from pelap.config.run_config import DataConfig, RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError, foreign_errors
from pelap.core.files import read_object
from pelap.core.links import refuse_endless
from pelap.core.weight_files import check_loaded, find_weights
from pelap.families.conditioned import ConditionedDenoiser, bare, class_condition, tell_classes
from pelap.families.registry import denoiser_family
from pelap.method.forward_process import build_scheduler
from pelap.method.gates import Gate
from pelap.method.importance import ImportancePredictor
from pelap.method.normalizer import fold_normalizer, read_statistics, write_statistics
from pelap.method.sampling import build_sampler, denoise, flow_sampler, kept_channels, to_uint8
from pelap.method.system import LATENT_FACTOR, LatentDiffusion


class LatentDiffusionPipeline(DiffusionPipeline):
    """Noise → latents → images: what a run saves in model/, as a diffusers pipeline.

    The importance predictor travels along for analysis. Sampling does not use it: it needs the
    clean latent, which does not exist when one starts from noise. A hardened static gate says which
    channels there are; the autoencoder's `latents_mean` and `latents_std` how large.
    """

    _optional_components = ["importance", "gate"]  # noqa: RUF012 - diffusers reads it off the class

    def __init__(
        self,
        autoencoder: Any,  # diffusers compares parts with the annotations
        denoiser: Any,
        scheduler: DDPMScheduler,
        importance: ImportancePredictor | None = None,
        gate: Gate | None = None,
        id2label: dict[int, str] | None = None,
        sample_size: int | None = None,
    ):
        super().__init__()
        said = {"id2label": id2label, "sample_size": sample_size}
        self.register_to_config(**{name: value for name, value in said.items() if value})
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            scheduler=scheduler,
            importance=importance,
            gate=gate,
        )

    @torch.no_grad()
    def __call__(
        self,
        latents: Tensor | None = None,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        class_labels: Tensor | Sequence[int] | None = None,
        guidance_scale: float = 1.0,
        *,
        batch_size: int = 1,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> ImagePipelineOutput:
        """Denoise noise and decode it.

        Args:
            latents: Standard normal noise (B, C, h, w); by default it is drawn.
            num_inference_steps: Steps of the scheduler.
            output_type: "pil"; "np" for an array (B, H, W, 3) in [0, 1]; "pt" for a tensor
                (B, 3, H, W) in [-1, 1].
            class_labels: int64, (B,), for a denoiser that is told classes; by default none.
            guidance_scale: Towards the class, see `denoise`.
            batch_size: Pictures where noise is drawn and there are no classes.
            height: Of those, in pixels; by default those of latents of the config's `sample_size`,
                or else CIFAR-10's.
            width: Likewise.
            generator: Of that noise, or one for each picture.
        """
        denoiser: Any = self.denoiser
        if class_labels is not None:
            class_labels = torch.as_tensor(class_labels, device=self.device)
            batch_size = len(class_labels)
        if latents is None:
            own = self.config.get("sample_size") or DataConfig.size // LATENT_FACTOR
            sides = [side // LATENT_FACTOR if side else own for side in (height, width)]
            shape = (batch_size, self.autoencoder.config["latent_channels"], *sides)
            latents = randn_tensor(shape, generator, self.device, denoiser.dtype)
        if denoiser.config.get("num_class_embeds"):
            denoiser = ConditionedDenoiser(denoiser, class_condition(denoiser, is_flow=False))
        told = None if class_labels is None else tell_classes(denoiser, class_labels)
        denoised = denoise(
            denoiser,
            self.scheduler,
            latents,
            num_inference_steps,
            kept_channels(self.gate),
            told=told,
            guidance=guidance_scale,
        )
        normalizer = read_statistics(self.autoencoder)
        if normalizer is not None:
            denoised = normalizer.to(denoised.device).inverse(denoised)
        images = self.autoencoder.decode(denoised).sample.float().clamp(-1, 1)  # (B, 3, H, W)
        if output_type == "pt":
            return ImagePipelineOutput(images=images)  # type: ignore[arg-type]
        arrays = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy() / 255.0
        return ImagePipelineOutput(arrays if output_type == "np" else self.numpy_to_pil(arrays))


def to_pipeline(
    system: LatentDiffusion, class_names: Sequence[str] = ()
) -> LatentDiffusionPipeline | DiTPipeline:
    """The system's parts as a diffusers pipeline; shares the weights.

    A transformer becomes the DiTPipeline of diffusers, whose autoencoder is a copy with the
    normaliser in its weights; everything else a LatentDiffusionPipeline.

    Args:
        system: The networks.
        class_names: What its classes are called, where the denoiser is told them.
    """
    denoiser = bare(system.denoiser)
    id2label = dict(enumerate(class_names)) if denoiser is not system.denoiser else None
    if denoiser_family(denoiser).stock_pipeline == DiTPipeline.__name__:
        return _to_dit_pipeline(system, denoiser, id2label)
    if system.normalizer is not None:
        write_statistics(system.normalizer, system.autoencoder)
    return LatentDiffusionPipeline(
        system.autoencoder,
        denoiser,  # type: ignore[arg-type]
        system.scheduler,
        system.importance,
        system.gate,
        id2label,
    )


def _to_dit_pipeline(
    system: LatentDiffusion, transformer: Any, id2label: dict[int, str] | None
) -> DiTPipeline:
    autoencoder = system.autoencoder
    if system.normalizer is not None:
        autoencoder = copy.deepcopy(autoencoder)
        fold_normalizer(system.normalizer, autoencoder)
    scheduler: Any = flow_sampler() if system.is_flow else build_sampler("ddim", system.scheduler)
    pipeline = DiTPipeline(transformer, autoencoder, scheduler, id2label)
    pipeline.register_to_config(id2label=id2label)
    return pipeline


def to_system(
    pipeline: LatentDiffusionPipeline | DiTPipeline, config: RunConfig
) -> LatentDiffusion:
    """The pipeline's parts as the system of a run with that config; shares the weights."""
    importance = gate = None
    denoiser: Any
    if isinstance(pipeline, DiTPipeline):
        autoencoder, denoiser = pipeline.vae, pipeline.transformer
        scheduler = build_scheduler(config.noise)
    else:
        autoencoder, denoiser = pipeline.autoencoder, pipeline.denoiser
        importance, gate, scheduler = pipeline.importance, pipeline.gate, pipeline.scheduler
    if config.network.num_classes or isinstance(pipeline, DiTPipeline):
        condition = class_condition(denoiser, is_flow=config.noise.process == "flow")
        denoiser = ConditionedDenoiser(denoiser, condition)
    return LatentDiffusion(
        autoencoder,
        denoiser,
        importance,
        gate,
        scheduler,
        read_statistics(autoencoder),
        config.objective,
    )


def load_pipeline(folder: Path) -> LatentDiffusionPipeline | DiTPipeline:
    """The pipeline that a run saved.

    Raises:
        RunError: If there is none at `folder`, or it cannot be loaded.
        ModelError: If a part's weights are missing, damaged, not finite, or pickles, or the folder
            holds what is no file.
    """
    if not (folder / "model_index.json").is_file():
        if not RunFolder(folder.parent).config_path.is_file():
            raise RunError(f"No model at {folder}: give a run, or the model folder of one.")
        raise RunError(
            f"No model at {folder}: the run has not finished its first epoch; "
            f"continue it with `pelap resume {folder.parent}`."
        )
    refuse_endless(folder)
    index = read_object(folder / "model_index.json", RunError)
    is_dit = index.get("_class_name") == DiTPipeline.__name__
    weights = {
        name: find_weights(folder / name).names()
        for name, part in index.items()
        if name != "scheduler" and isinstance(part, list) and part[0] is not None
    }
    pipeline = _load_silently(DiTPipeline if is_dit else LatentDiffusionPipeline, folder)
    for name, names in weights.items():
        part = pipeline.components[name]
        check_loaded(folder / name, part, set(part.state_dict()) - set(names))
    return pipeline


def read_class_names(model: Path) -> tuple[str, ...]:
    """What the classes of the pipeline in that folder are called; none if it has none."""
    return tuple((read_object(model / "model_index.json", RunError).get("id2label") or {}).values())


def is_autoencoder(folder: Path) -> bool:
    """Whether that is the folder of a diffusers AutoencoderKL on its own."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("_class_name") == AutoencoderKL.__name__


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """The AutoencoderKL in that folder.

    Raises:
        RunError: If it cannot be loaded.
    """
    return _load_silently(AutoencoderKL, folder)


def _load_silently(kind: Any, folder: Path) -> Any:
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it finds fault with the keys of id2label, which JSON makes text
    try:
        with foreign_errors(lambda reason: RunError(f"{folder} cannot be loaded: {reason}")):
            return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
