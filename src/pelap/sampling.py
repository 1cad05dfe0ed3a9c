"""Latents and images from noise, with diffusers' schedulers."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.utils import logging
from torch import Tensor

from pelap.config import RunConfig
from pelap.errors import RunError
from pelap.latent import ImportancePredictor
from pelap.networks import PaperAutoencoder, PaperUNet
from pelap.seeding import generator
from pelap.system import LatentDiffusion, latent_shape

SAMPLERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm-solver++": DPMSolverMultistepScheduler,
}


class LatentDiffusionPipeline(DiffusionPipeline):
    """Noise → latents → images: what a run saves in model/, as a diffusers pipeline.

    The importance predictor travels along for analysis. Sampling does not use it: it needs the
    clean latent, which does not exist when one starts from noise.
    """

    _optional_components = ["importance"]  # noqa: RUF012 - diffusers reads it off the class

    def __init__(
        self,
        autoencoder: PaperAutoencoder,
        denoiser: PaperUNet,
        scheduler: DDPMScheduler,
        importance: ImportancePredictor | None = None,
    ):
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder, denoiser=denoiser, scheduler=scheduler, importance=importance
        )

    @torch.no_grad()
    def __call__(
        self, latents: Tensor, num_inference_steps: int = 50, output_type: str = "pil"
    ) -> ImagePipelineOutput:
        """Denoise `latents` and decode them.

        Args:
            latents: Standard normal noise (B, C, h, w).
            num_inference_steps: Steps of the scheduler.
            output_type: "pil", or "pt" for a tensor (B, 3, H, W) in [-1, 1].
        """
        denoised = denoise(self.denoiser, self.scheduler, latents, num_inference_steps)
        images = self.autoencoder.decode(denoised).sample.float().clamp(-1, 1)  # (B, 3, H, W)
        if output_type == "pt":
            return ImagePipelineOutput(images=images)  # type: ignore[arg-type]
        arrays = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(arrays / 255.0))


def to_pipeline(system: LatentDiffusion) -> LatentDiffusionPipeline:
    """The system's parts as a diffusers pipeline; shares the weights."""
    return LatentDiffusionPipeline(
        system.autoencoder, system.denoiser, system.scheduler, system.importance
    )


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
def denoise(denoiser: PaperUNet, sampler: Any, noise: Tensor, num_steps: int) -> Tensor:
    """Latents (B, C, h, w) from standard normal noise of that shape, deterministic for a seed.

    `sampler` is any diffusers scheduler: they share methods, not a base class. Ancestral ones draw
    their noise from a generator seeded with 0 on the latents' device.
    """
    sampler.set_timesteps(num_steps, device=noise.device)
    latents = noise * sampler.init_noise_sigma
    step_generator = generator(0, "sampling", 1, noise.device)
    takes_generator = not isinstance(sampler, DPMSolverMultistepScheduler)
    for timestep in sampler.timesteps:
        model_input = sampler.scale_model_input(latents, timestep)
        prediction = denoiser(model_input, timestep).sample
        options = {"generator": step_generator} if takes_generator else {}
        latents = sampler.step(prediction, timestep, latents, **options).prev_sample
    return latents


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
) -> Tensor:
    """Pictures from noise as bytes (N, 3, H, W), on the CPU, the same for the same seed.

    Raises:
        ValueError: If the sampler is unknown.
    """
    device = next(system.parameters()).device
    source = generator(seed, "sampling", 0, device)
    noise = torch.randn((num_samples, *latent_shape(config)), generator=source, device=device)
    scheduler = build_sampler(sampler, system.scheduler)
    parts = [
        to_uint8(system.decode(denoise(system.denoiser, scheduler, part, num_steps))).cpu()
        for part in noise.split(batch_size)
    ]
    return torch.cat(parts)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes 0..255, rounded."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load_pipeline(folder: Path) -> LatentDiffusionPipeline:
    """The pipeline that a run saved.

    Raises:
        RunError: If there is none at `folder`.
    """
    if not (folder / "model_index.json").is_file():
        raise RunError(
            f"No model at {folder}: the run has not finished its first epoch; "
            f"continue it with `pelap resume {folder.parent}`."
        )
    logging.disable_progress_bar()
    try:
        return LatentDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    finally:
        logging.enable_progress_bar()
