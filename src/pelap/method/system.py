"""The whole method in one module: images → latents → mask → reconstruction and noise prediction.

    images ── encoder ──> mean, logvar ──> normaliser ──> latents ──┬─> importance ─> gate ─> mask
                                                                    │                          │
                                                                    └────────── ⊙ <────────────┘
                                                                                │
                          reconstruction <── decoder <── inverse normaliser ────┤
                                                                                │
                                                    noise, timesteps ──> noisy latents ──> denoiser

What the paper does differently (arXiv 2606.23086): no normaliser, the decoder sees the latents
before the mask, the noise enters closed channels too, and the diffusion loss trains the encoder
through the mask. Each is an option of `ObjectiveConfig`.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from pelap.config.run_config import NoiseConfig, ObjectiveConfig, RunConfig
from pelap.families.conditioned import (
    ConditionedDenoiser,
    Told,
    class_condition,
    flow_alphas_cumprod,
    flow_size,
)
from pelap.families.latent_axes import by_channel, by_picture
from pelap.method.build_networks import build_networks
from pelap.method.gates import Gate, GateOutput, build_gate
from pelap.method.importance import ImportancePredictor
from pelap.method.normalizer import LatentNormalizer

LATENT_FACTOR = 4
"""Pixels of an image's side to one of its latent's."""

Stage = Literal["joint", "autoencoder", "denoiser"]
"""What is trained: all together, or one after the other."""


class Autoencoder(Protocol):
    """What the method asks of an autoencoder, as diffusers' AutoencoderKL has it."""

    @property
    def config(self) -> Any:
        """A mapping with `latent_channels`."""
        ...

    def encode(self, images: Tensor, /) -> Any:
        """A distribution of latents (B, C, h, w), as `latent_dist`."""
        ...

    def decode(self, latents: Tensor, /) -> Any:
        """Images (B, 3, H, W) in [-1, 1], as `sample`."""
        ...


class Denoiser(Protocol):
    """What the method asks of a denoiser, as diffusers' unconditional UNet has it."""

    def __call__(self, noisy: Tensor, timesteps: Any, /, *told: Any) -> Any:
        """A prediction (B, C, h, w) for noisy latents, as `sample`; one that takes conditions is
        told them of each picture."""
        ...


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch."""

    latent_noise: Tensor
    """Standard normal (B, C, h, w), for the reparametrised latents."""
    noise: Tensor
    """Standard normal (B, C, h, w), what is mixed into the latents."""
    timesteps: Tensor
    """Integers (B,) in [0, num_timesteps)."""
    gate_noise: Tensor
    """Uniform on (0, 1), (B, C), for gates that are random in training."""
    condition_drops: Tensor
    """Pictures whose class the denoiser is not told, bool, (B,)."""

    def part(self, index: slice) -> "Draws":
        """The draws of some of the batch's samples."""
        return Draws(
            self.latent_noise[index],
            self.noise[index],
            self.timesteps[index],
            self.gate_noise[index],
            self.condition_drops[index],
        )


@dataclass(frozen=True)
class LatentBatch:
    """What the encoder made of a batch of images."""

    mean: Tensor
    """(B, C, h, w), of the encoder's distribution."""
    logvar: Tensor
    """(B, C, h, w), logarithms of that distribution's variances."""
    latents: Tensor
    """A draw of that distribution, normalised where there is a normaliser, (B, C, h, w)."""


@dataclass(frozen=True)
class SystemOutput:
    """Everything the losses need, in float32; None where the stage does not make it."""

    latent: LatentBatch
    gate: GateOutput
    reconstruction: Tensor | None
    """(B, 3, H, W) in [-1, 1]."""
    prediction: Tensor | None
    """What the denoiser said, (B, C, h, w)."""
    target: Tensor | None
    """What it should have said, (B, C, h, w)."""
    features: tuple[list[Tensor], list[Tensor]] | None = None
    """Of the reconstruction and of the original, by layer of a network that compares them."""


class LatentDiffusion(nn.Module):
    """Autoencoder, normaliser, importance predictor and gate, denoiser, and the forward process.

    Args:
        autoencoder: `encode(images).latent_dist` and `decode(latents).sample`, as diffusers'.
        denoiser: `denoiser(noisy_latents, timesteps).sample`, as diffusers'.
        importance: Scores from latents, or None for the baseline with mask 1.
        gate: Mask from scores; None exactly when `importance` is.
        scheduler: The forward process; its config says what the denoiser predicts.
        normalizer: Statistics of the latents, or None to take them as they come.
        options: What sees the mask and where gradients go; the weights in it are not used here.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        importance: ImportancePredictor | None,
        gate: Gate | None,
        scheduler: DDPMScheduler,
        normalizer: LatentNormalizer | None = None,
        options: ObjectiveConfig | None = None,
    ):
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.denoiser: Any = denoiser
        self.importance = importance
        self.gate = gate
        self.normalizer = normalizer
        self.scheduler = scheduler
        self.options = options or ObjectiveConfig()

    def encode(self, images: Tensor, latent_noise: Tensor) -> LatentBatch:
        """Latents (B, C, H/4, W/4) of images (B, 3, H, W) in [-1, 1]."""
        distribution = self.autoencoder.encode(images).latent_dist
        mean, logvar = distribution.mean.float(), distribution.logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * latent_noise
        if self.normalizer is not None:
            latents = self.normalizer(latents)
        return LatentBatch(mean, logvar, latents)

    def encode_moments(self, images: Tensor) -> Tensor:
        """Normalised means and log-variances (B, 2C, H/4, W/4) of images (B, 3, H, W)."""
        distribution = self.autoencoder.encode(images).latent_dist
        mean, logvar = distribution.mean.float(), distribution.logvar.float()
        if self.normalizer is not None:
            mean = self.normalizer(mean)
            logvar = logvar - 2 * by_channel(self.normalizer.std.log(), logvar)
        return torch.cat([mean, logvar], dim=1)

    def mask(self, latents: Tensor, gate_noise: Tensor | None = None) -> GateOutput:
        """Mask (B, C) of latents (B, C, h, w)."""
        if self.importance is None or self.gate is None:
            return GateOutput(mask=latents.new_ones(latents.shape[:2]))
        return self.gate(self.importance(latents), gate_noise)

    @torch.no_grad()
    def final_mask(self, latents: Tensor) -> GateOutput:
        """Mask (B, C) of a gate that has finished learning, also in training mode."""
        if self.gate is not None:
            self.gate.eval()
        return self.mask(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, C, h, w)."""
        if self.normalizer is not None:
            latents = self.normalizer.inverse(latents)
        return self.autoencoder.decode(latents).sample.float()

    def add_noise(self, latents: Tensor, mask: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (B, C, h, w) of latents before their mask (B, C)."""
        weights = by_channel(mask, latents)
        if self.options.open_channels_only:
            return weights * self.scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        return self.scheduler.add_noise(weights * latents, noise, timesteps)  # type: ignore[arg-type]

    def predict(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> Tensor:
        """What the denoiser says (B, C, h, w) of noisy latents, told so much of each picture."""
        told_too = (told,) if told is not None else ()
        return self.denoiser(noisy, timesteps, *told_too).sample.float()

    def predict_noise(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> Tensor:
        """The denoiser's guess (B, C, h, w) of the noise in noisy latents, whatever it predicts."""
        prediction = self.predict(noisy, timesteps, told)
        if not self.predicts_velocity:
            return prediction
        alphas = self.scheduler.alphas_cumprod.to(noisy.device)[timesteps]  # (B,)
        alphas = by_picture(alphas, noisy)
        return alphas.sqrt() * prediction + (1 - alphas).sqrt() * noisy

    @property
    def is_flow(self) -> bool:
        """Whether the denoiser is a flow's, shown as one that predicts v."""
        condition = getattr(self.denoiser, "condition", None)
        return condition is not None and condition.is_flow

    @property
    def predicts_velocity(self) -> bool:
        """Whether the denoiser predicts v instead of the noise."""
        return self.scheduler.config["prediction_type"] == "v_prediction"

    def forward(
        self, inputs: Tensor, draws: Draws, stage: Stage = "joint", told: Told | None = None
    ) -> SystemOutput:
        """One batch.

        Args:
            inputs: Images (B, 3, H, W) in [-1, 1]; in stage "denoiser" the normalised moments of
                cached latents, (B, 2C, h, w).
            draws: Random numbers.
            stage: What is trained.
            told: What the denoiser is told of each picture, see `tell_classes`.
        """
        if stage == "denoiser":
            latent = sample_moments(inputs, draws.latent_noise)
            gate = self.final_mask(latent.latents)
        else:
            latent = self.encode(inputs, draws.latent_noise)  # latents (B, C, h, w)
            gate = self.mask(latent.latents, draws.gate_noise)  # mask (B, C)
        reconstruction = prediction = target = None
        if stage != "denoiser":
            seen = latent.latents
            if self.options.decoder_sees_mask:
                seen = seen * by_channel(gate.mask, seen)
            reconstruction = self.decode(seen)  # (B, 3, H, W)
        if stage != "autoencoder":
            prediction, target = self._denoise(latent.latents, gate.mask, draws, told)
        return SystemOutput(latent, gate, reconstruction, prediction, target)

    def _denoise(
        self, latents: Tensor, mask: Tensor, draws: Draws, told: Told | None
    ) -> tuple[Tensor, Tensor]:
        share = self.options.encoder_diffusion_weight
        latents, mask = scale_gradient(latents, share), scale_gradient(mask, share)
        noisy = self.add_noise(latents, mask, draws.noise, draws.timesteps)
        prediction = self.predict(noisy, draws.timesteps, told)  # (B, C, h, w)
        if not self.predicts_velocity:
            return prediction, draws.noise
        seen = latents if self.options.open_channels_only else latents * by_channel(mask, latents)
        target = self.scheduler.get_velocity(seen, draws.noise, draws.timesteps)  # type: ignore[arg-type]
        if not self.is_flow:
            return prediction, target
        # (prediction − target) / s is the error of the flow itself
        size = by_picture(flow_size(draws.timesteps).to(noisy), noisy)
        return prediction / size, target / size


def scale_gradient(tensor: Tensor, share: float) -> Tensor:
    """The same tensor, of whose gradient only `share` goes back."""
    if share == 1.0:
        return tensor
    return tensor.detach() + share * (tensor - tensor.detach()) if share else tensor.detach()


def sample_moments(moments: Tensor, latent_noise: Tensor) -> LatentBatch:
    """Latents drawn from cached moments (B, 2C, h, w): means, then log-variances."""
    mean, logvar = moments.chunk(2, dim=1)  # (B, C, h, w) each
    return LatentBatch(mean, logvar, mean + torch.exp(0.5 * logvar) * latent_noise)


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


def build_system(config: RunConfig) -> LatentDiffusion:
    """Networks with fresh weights drawn from `config.run.seed`, on the CPU."""
    network = config.network
    importance = None
    autoencoder: Any
    denoiser: Any
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        autoencoder, denoiser = build_networks(
            network, config.autoencoder, config.data.size // LATENT_FACTOR
        )
        gate = build_gate(config.gate, network.latent_channels)
        if gate is not None:
            importance = ImportancePredictor(
                network.latent_channels, config.gate.hidden_channels, config.gate.initial_score
            )
    if network.num_classes:
        condition = class_condition(denoiser, is_flow=config.noise.process == "flow")
        denoiser = ConditionedDenoiser(denoiser, condition)
    normalizer = LatentNormalizer(network.latent_channels) if network.normalize_latents else None
    return LatentDiffusion(
        autoencoder,
        denoiser,
        importance,
        gate,
        build_scheduler(config.noise),
        normalizer,
        config.objective,
    )


def latent_shape(config: RunConfig) -> tuple[int, int, int]:
    """(C, h, w) of this run's latents."""
    side = config.data.size // LATENT_FACTOR
    return (config.network.latent_channels, side, side)
