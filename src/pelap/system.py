"""The whole method in one module: images → latents → mask → reconstruction and noise prediction.

    images ── encoder ──> mean, logvar ──> latents ──┬──────────> decoder ──> reconstruction
                                                     │
                                                     ├─> importance ─> gate ─> mask
                                                     │                          │
                                                     └────────── ⊙ <────────────┘
                                                                 │
                                     noise, timesteps ──> noisy latents ──> denoiser ──> prediction

As in the paper the decoder sees the latents before the mask, and nothing is detached: the diffusion
loss trains the encoder through the mask.
"""

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from pelap.config import NoiseConfig, RunConfig
from pelap.latent import Gate, GateOutput, ImportancePredictor, build_gate
from pelap.networks import PaperAutoencoder, PaperUNet

LATENT_FACTOR = 4
"""Pixels of an image's side to one of its latent's."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch."""

    latent_noise: Tensor
    """Standard normal (B, C, h, w), for the reparametrised latents."""
    noise: Tensor
    """Standard normal (B, C, h, w), what the denoiser must predict."""
    timesteps: Tensor
    """Integers (B,) in [0, num_timesteps)."""

    def part(self, index: slice) -> "Draws":
        """The draws of some of the batch's samples."""
        return Draws(self.latent_noise[index], self.noise[index], self.timesteps[index])


@dataclass(frozen=True)
class LatentBatch:
    """What the encoder made of a batch of images."""

    mean: Tensor
    """(B, C, h, w)."""
    logvar: Tensor
    """(B, C, h, w)."""
    latents: Tensor
    """mean + exp(logvar/2)·latent_noise, (B, C, h, w)."""


@dataclass(frozen=True)
class SystemOutput:
    """Everything the losses need, in float32."""

    latent: LatentBatch
    gate: GateOutput
    reconstruction: Tensor
    """(B, 3, H, W) in [-1, 1], from the latents before the mask."""
    prediction: Tensor
    """Predicted noise (B, C, h, w)."""


class LatentDiffusion(nn.Module):
    """Autoencoder, importance predictor and gate, denoiser, and the forward process.

    Args:
        autoencoder: `encode(images).latent_dist` and `decode(latents).sample`, as diffusers'.
        denoiser: `denoiser(noisy_latents, timesteps).sample`, as diffusers'.
        importance: Scores from latents, or None for the baseline with mask 1.
        gate: Mask from scores; None exactly when `importance` is.
        scheduler: The forward process.
    """

    def __init__(
        self,
        autoencoder: PaperAutoencoder,
        denoiser: PaperUNet,
        importance: ImportancePredictor | None,
        gate: Gate | None,
        scheduler: DDPMScheduler,
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.denoiser = denoiser
        self.importance = importance
        self.gate = gate
        self.scheduler = scheduler

    def encode(self, images: Tensor, latent_noise: Tensor) -> LatentBatch:
        """Latents (B, C, H/4, W/4) of images (B, 3, H, W) in [-1, 1]."""
        distribution = self.autoencoder.encode(images).latent_dist
        mean, logvar = distribution.mean.float(), distribution.logvar.float()
        return LatentBatch(mean, logvar, mean + torch.exp(0.5 * logvar) * latent_noise)

    def mask(self, latents: Tensor) -> GateOutput:
        """Mask (B, C) of latents (B, C, h, w)."""
        if self.importance is None or self.gate is None:
            return GateOutput(mask=latents.new_ones(latents.shape[:2]))
        return self.gate(self.importance(latents))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, C, h, w)."""
        return self.autoencoder.decode(latents).sample.float()

    def predict_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The denoiser's guess (B, C, h, w) of the noise that was mixed into the latents."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        return self.denoiser(noisy, timesteps).sample.float()

    def forward(self, images: Tensor, draws: Draws) -> SystemOutput:
        latent = self.encode(images, draws.latent_noise)  # latents (B, C, h, w)
        gate = self.mask(latent.latents)  # mask (B, C)
        masked = latent.latents * gate.mask[:, :, None, None]  # (B, C, h, w)
        return SystemOutput(
            latent=latent,
            gate=gate,
            reconstruction=self.decode(latent.latents),  # (B, 3, H, W)
            prediction=self.predict_noise(masked, draws.noise, draws.timesteps),  # (B, C, h, w)
        )


def build_scheduler(config: NoiseConfig) -> DDPMScheduler:
    """The forward process as a diffusers scheduler. Latents are unbounded: no clipping."""
    return DDPMScheduler(
        num_train_timesteps=config.num_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        clip_sample=False,
    )


def build_system(config: RunConfig) -> LatentDiffusion:
    """Networks with fresh weights drawn from `config.run.seed`, on the CPU."""
    network = config.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        autoencoder = PaperAutoencoder(network.latent_channels, network.autoencoder_channels)
        denoiser = PaperUNet(
            network.latent_channels, network.denoiser_channels, network.time_channels
        )
        gate = build_gate(config.gate)
        importance = None
        if gate is not None:
            importance = ImportancePredictor(
                network.latent_channels, config.gate.hidden_channels, config.gate.initial_score
            )
    return LatentDiffusion(autoencoder, denoiser, importance, gate, build_scheduler(config.noise))


def latent_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, h, w) of this run's latents."""
    side = config.data.size // LATENT_FACTOR
    return (config.network.latent_channels, side, side)
