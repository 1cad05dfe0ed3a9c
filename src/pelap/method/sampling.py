"""Latents and images from noise, with diffusers' schedulers."""

import copy
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.utils import logging
from safetensors import SafetensorError
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ConfigError, RunError
from pelap.core.seeding import generator
from pelap.families.conditioned import (
    ConditionedDenoiser,
    Told,
    bare,
    class_condition,
    tell_classes,
)
from pelap.families.latent_axes import by_channel
from pelap.families.registry import denoiser_family
from pelap.method.gates import Gate, NestedGate, build_gate
from pelap.method.importance import ImportancePredictor
from pelap.method.normalizer import fold_normalizer, read_statistics, write_statistics
from pelap.method.system import (
    LATENT_FACTOR,
    Denoiser,
    LatentDiffusion,
    build_scheduler,
    latent_shape,
)

SETTLED = 1000
"""Batches that statistics taken from another run count as."""

SAMPLERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm-solver++": DPMSolverMultistepScheduler,
}


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
    ):
        super().__init__()
        if id2label is not None:
            self.register_to_config(id2label=id2label)
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
        latents: Tensor,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        class_labels: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> ImagePipelineOutput:
        """Denoise `latents` and decode them.

        Args:
            latents: Standard normal noise (B, C, h, w).
            num_inference_steps: Steps of the scheduler.
            output_type: "pil", or "pt" for a tensor (B, 3, H, W) in [-1, 1].
            class_labels: int64, (B,), for a denoiser that is told classes; by default none.
            guidance_scale: Towards the class, see `denoise`.
        """
        denoiser: Any = self.denoiser
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
        arrays = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(arrays / 255.0))


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


def flow_sampler() -> DPMSolverMultistepScheduler:
    """What a flow's stock pipeline samples with: DPM-Solver++ on evenly spread σ."""
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    )


def read_class_names(model: Path) -> tuple[str, ...]:
    """What the classes of the pipeline in that folder are called; none if it has none."""
    index = json.loads((model / "model_index.json").read_text())
    return tuple((index.get("id2label") or {}).values())


def to_system(
    pipeline: LatentDiffusionPipeline | DiTPipeline, config: RunConfig
) -> LatentDiffusion:
    """The pipeline's parts as the system of a run with that config; shares the weights."""
    is_flow = config.noise.process == "flow"
    if isinstance(pipeline, DiTPipeline):
        condition = class_condition(pipeline.transformer, is_flow=is_flow)
        return LatentDiffusion(
            pipeline.vae,
            ConditionedDenoiser(pipeline.transformer, condition),
            None,
            None,
            build_scheduler(config.noise),
            read_statistics(pipeline.vae),
            config.objective,
        )
    denoiser: Any = pipeline.denoiser
    if config.network.num_classes:
        denoiser = ConditionedDenoiser(denoiser, class_condition(denoiser, is_flow=is_flow))
    gate = pipeline.gate
    if gate is None and pipeline.importance is not None:  # saved before gates were
        gate = build_gate(config.gate, config.network.latent_channels)
    return LatentDiffusion(
        pipeline.autoencoder,
        denoiser,
        pipeline.importance,
        gate,
        pipeline.scheduler,
        read_statistics(pipeline.autoencoder),
        config.objective,
    )


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
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"--run.begin-with {path} has other weights ({reason}).") from error
    if autoencoder and system.normalizer is not None and source.normalizer is not None:
        system.normalizer.num_batches.fill_(SETTLED)


def _load_for(path: Path, system: LatentDiffusion) -> LatentDiffusion:
    """The networks at `path`; an autoencoder on its own comes with the system's denoiser."""
    if is_autoencoder(path):
        autoencoder = _load_silently(AutoencoderKL, path)
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


def kept_channels(gate: Gate | None) -> Tensor | None:
    """Zeros and ones (C,), the channels that a static gate leaves open; None where there is no one
    set."""
    if gate is None or gate.adaptive:
        return None
    if gate.is_hard:
        return gate.kept
    mask, _ = gate.rule(gate.mean_scores[None], None)
    return (mask[0] > 0).to(mask)


def build_sampler(name: str, forward_process: DDPMScheduler) -> Any:
    """The diffusers scheduler of that name for a trained forward process.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in SAMPLERS:
        raise ValueError(f"Unknown sampler {name!r}: known are {', '.join(SAMPLERS)}.")
    extra = {"algorithm_type": "dpmsolver++"} if name == "dpm-solver++" else {}
    return SAMPLERS[name].from_config(forward_process.config, **extra)


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    sampler: Any,
    noise: Tensor,
    num_steps: int,
    mask: Tensor | None = None,
    step_noise: torch.Generator | None = None,
    told: Told | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Latents (B, C, h, w) from standard normal noise of that shape, deterministic for a seed.

    Args:
        denoiser: Called with noisy latents and a timestep; its result has `sample`.
        sampler: Any diffusers scheduler: they share methods, not a base class.
        noise: (B, C, h, w).
        num_steps: Of the sampler.
        mask: (C,) or (B, C); closed channels are zero throughout.
        step_noise: What ancestral samplers draw from, on the latents' device; by default seeded
            with 0. Batches that share its seed come out alike, whatever noise they start from.
        told: What the denoiser is told of each picture, see `tell_classes`.
        guidance: How far beyond what it says untold to go towards what it says told (Ho and
            Salimans, arXiv 2207.12598); 1 goes there and no further.
    """
    predict = _predictor(denoiser, sampler, told, guidance)
    open_ = 1.0 if mask is None else by_channel(mask, noise)
    sampler.set_timesteps(num_steps, device=noise.device)
    latents = noise * getattr(sampler, "init_noise_sigma", 1.0)
    step_noise = step_noise or generator(0, "sampling", 1, noise.device)
    takes_generator = "generator" in inspect.signature(sampler.step).parameters
    for timestep in sampler.timesteps:
        model_input = latents * open_
        if hasattr(sampler, "scale_model_input"):  # those of flow matching have none
            model_input = sampler.scale_model_input(model_input, timestep)
        prediction = predict(model_input, timestep)
        options = {"generator": step_noise} if takes_generator else {}
        latents = sampler.step(prediction, timestep, latents, **options).prev_sample
    return latents * open_


def _predictor(
    denoiser: Any, sampler: Any, told: Told | None, guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """What the sampler asks at each step; one that knows flows asks the flow itself."""
    knows_flows = getattr(sampler, "config", {}).get("use_flow_sigmas")
    is_native = knows_flows and hasattr(denoiser, "native")

    def predict(noisy: Tensor, timestep: Tensor, told: Told | None) -> Tensor:
        if is_native:
            return denoiser.native(noisy, timestep, told)
        told_too = (told,) if told is not None else ()
        return denoiser(noisy, timestep, *told_too).sample

    def guided(noisy: Tensor, timestep: Tensor) -> Tensor:
        prediction = predict(noisy, timestep, told)
        if told is None or guidance == 1:
            return prediction
        untold = predict(noisy, timestep, None)
        return untold + guidance * (prediction - untold)

    return guided


@torch.no_grad()
def sample(
    system: LatentDiffusion,
    config: RunConfig,
    *,
    num_samples: int,
    sampler: str,
    num_steps: int,
    seed: int,
    batch_size: int = 250,
    masks: Tensor | None = None,
    labels: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Pictures from noise as bytes (N, 3, H, W), on the CPU, the same for the same seed.

    Args:
        system: The networks.
        config: Gives the shapes.
        num_samples: N.
        sampler: One of SAMPLERS.
        num_steps: Steps of the sampler.
        seed: Of the noise, also of the noise that ancestral samplers add at each step.
        batch_size: Pictures at a time.
        masks: Channel set of each picture, (C,) or (N, C); by default that of a hardened static
            gate.
        labels: Class of each picture, (N,), for a denoiser that is told classes; by default none.
        guidance: Towards the class, see `denoise`.

    Raises:
        ValueError: If the sampler is unknown.
    """
    device = next(system.parameters()).device
    source = generator(seed, "sampling", 0, device)
    noise = torch.randn((num_samples, *latent_shape(config)), generator=source, device=device)
    step_noise = generator(seed, "sampling", 1, device)
    is_native = system.is_flow and sampler == "dpm-solver++"
    scheduler: Any = flow_sampler() if is_native else build_sampler(sampler, system.scheduler)
    masks = kept_channels(system.gate) if masks is None else masks.to(device)
    parts = []
    for start in range(0, num_samples, batch_size):
        part = noise[start : start + batch_size]
        mask = masks[start : start + batch_size] if masks is not None and masks.dim() > 1 else masks
        told = None
        if labels is not None:
            chosen = labels[start : start + batch_size].to(device)
            told = tell_classes(system.denoiser, chosen)
        latents = denoise(
            system.denoiser, scheduler, part, num_steps, mask, step_noise, told, guidance
        )
        parts.append(to_uint8(system.decode(latents)).cpu())
    return torch.cat(parts)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes 0..255, rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load_pipeline(folder: Path) -> LatentDiffusionPipeline | DiTPipeline:
    """The pipeline that a run saved.

    Raises:
        RunError: If there is none at `folder`.
    """
    if not (folder / "model_index.json").is_file():
        if not RunFolder(folder.parent).config_path.is_file():
            raise RunError(f"No model at {folder}: give a run, or the model folder of one.")
        raise RunError(
            f"No model at {folder}: the run has not finished its first epoch; "
            f"continue it with `pelap resume {folder.parent}`."
        )
    index = json.loads((folder / "model_index.json").read_text())
    is_dit = index.get("_class_name") == DiTPipeline.__name__
    return _load_silently(DiTPipeline if is_dit else LatentDiffusionPipeline, folder)


def is_autoencoder(folder: Path) -> bool:
    """Whether that is the folder of a diffusers AutoencoderKL on its own."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("_class_name") == AutoencoderKL.__name__


def _load_silently(kind: Any, folder: Path) -> Any:
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it finds fault with the keys of id2label, which JSON makes text
    try:
        return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RunError(
            f"{folder} cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
