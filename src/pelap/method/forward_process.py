"""The forward process, from latents to noise, as a diffusers scheduler."""

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from pelap.config.run_config import NoiseConfig
from pelap.families.conditioned import flow_alphas_cumprod


def flow_process() -> DDPMScheduler:
    """The forward process of a flow as `ConditionedDenoiser` shows it."""
    alphas = flow_alphas_cumprod()
    betas = 1 - alphas / torch.cat([torch.ones(1), alphas[:-1]])
    return DDPMScheduler(
        len(betas),
        trained_betas=betas.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
    )


def build_scheduler(config: NoiseConfig) -> DDPMScheduler:
    """The forward process as a diffusers scheduler. Latents are unbounded: no clipping."""
    if config.process == "flow":
        return flow_process()
    return DDPMScheduler(
        num_train_timesteps=config.num_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        clip_sample=False,
        prediction_type=config.prediction,
    )
