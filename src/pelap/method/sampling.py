"""Latents and pictures from noise, with diffusers' schedulers."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.seeding import generator
from pelap.families.conditioned import Told, tell_classes
from pelap.families.latent_axes import by_channel
from pelap.method.gates import Gate
from pelap.method.halving import Halving
from pelap.method.system import Denoiser, LatentDiffusion, latent_shape

SAMPLERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm-solver++": DPMSolverMultistepScheduler,
}


def build_sampler(name: str, forward_process: DDPMScheduler) -> Any:
    """The diffusers scheduler of that name for a trained forward process.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in SAMPLERS:
        raise ValueError(f"Unknown sampler {name!r}: known are {', '.join(SAMPLERS)}.")
    extra = {"algorithm_type": "dpmsolver++"} if name == "dpm-solver++" else {}
    return SAMPLERS[name].from_config(forward_process.config, **extra)


def flow_sampler() -> DPMSolverMultistepScheduler:
    """What a flow's stock pipeline samples with: DPM-Solver++ on evenly spread σ."""
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    )


def kept_channels(gate: Gate | None) -> Tensor | None:
    """Zeros and ones (C,), the channels that a gate leaves open; None where pictures differ."""
    if gate is None or gate.adaptive:
        return None
    if gate.is_hard:
        return gate.kept
    mask, _ = gate.rule(gate.mean_scores[None], None)
    return (mask[0] > 0).to(mask)


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
    """Latents (B, C, …) from standard normal noise of that shape, deterministic for a seed.

    What does not fit a GPU at once is denoised in parts, to the same latents.

    Args:
        denoiser: Called with noisy latents and a timestep; its result has `sample`.
        sampler: Any diffusers scheduler: they share methods, not a base class.
        noise: (B, C, …).
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
    """What the sampler asks at each step, of noisy latents (B, C, …) and a timestep.

    A sampler that knows flows asks a flow model for its own prediction, not for v.
    """
    knows_flows = getattr(sampler, "config", {}).get("use_flow_sigmas")
    is_native = knows_flows and hasattr(denoiser, "native")
    halving = Halving("denoised")

    def predict(noisy: Tensor, timestep: Tensor, told: Told | None) -> Tensor:
        def call(noisy: Tensor, told: Told | None) -> Tensor:
            if is_native:
                return denoiser.native(noisy, timestep, told)
            told_too = (told,) if told is not None else ()
            return denoiser(noisy, timestep, *told_too).sample

        return halving(call, noisy, told)

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
