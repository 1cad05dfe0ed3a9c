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

from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from pelap.config.run_config import ObjectiveConfig, RunConfig
from pelap.core.errors import ConfigError, in_one_line
from pelap.families.conditioned import ConditionedDenoiser, Told, class_condition, flow_size
from pelap.families.latent_axes import by_channel, by_picture
from pelap.method.build_networks import build_networks
from pelap.method.forward_process import build_scheduler
from pelap.method.gates import Gate, GateOutput, build_gate
from pelap.method.halving import Halving
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

    def __call__(self, noisy: Tensor, timesteps: object, /, *told: object) -> Any:
        """A prediction (B, C, h, w) for noisy latents, as `sample`; one that takes conditions is
        told them of each picture."""
        ...


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch."""

    latent_noise: Tensor
    """Standard normal (B, C, …), for the reparametrised latents."""
    noise: Tensor
    """Standard normal (B, C, …), what is mixed into the latents."""
    timesteps: Tensor
    """Integers (B,) in [0, num_timesteps)."""
    gate_noise: Tensor
    """Uniform on (0, 1), (B, C), for gates that are random in training."""
    condition_drops: Tensor
    """Pictures whose class the denoiser is not told, bool, (B,)."""

    def part(self, index: slice) -> "Draws":
        """The draws of some of the batch's samples."""
        return Draws(*(getattr(self, field.name)[index] for field in fields(self)))


@dataclass(frozen=True)
class LatentBatch:
    """What the encoder made of a batch of images."""

    mean: Tensor
    """(B, C, …), of the encoder's distribution."""
    logvar: Tensor
    """(B, C, …), of the same distribution."""
    latents: Tensor
    """A draw of that distribution, normalised where there is a normaliser, (B, C, …)."""


@dataclass(frozen=True)
class SystemOutput:
    """Everything the losses need, in float32; None where the stage does not make it."""

    latent: LatentBatch
    gate: GateOutput
    reconstruction: Tensor | None
    """(B, 3, H, W) in [-1, 1]."""
    prediction: Tensor | None
    """What the denoiser said, (B, C, …)."""
    target: Tensor | None
    """What it should have said, (B, C, …)."""
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
        self._encoding, self._decoding = Halving("encoded"), Halving("decoded")
        self._predicting = Halving("denoised")

    def encode(self, images: Tensor, latent_noise: Tensor) -> LatentBatch:
        """Latents (B, C, …) of images (B, 3, H, W) in [-1, 1]."""
        mean, logvar = self._moments(images)
        latents = mean + torch.exp(0.5 * logvar) * latent_noise
        if self.normalizer is not None:
            latents = self.normalizer(latents)
        return LatentBatch(mean, logvar, latents)

    def encode_moments(self, images: Tensor) -> Tensor:
        """Normalised means and log-variances (B, 2C, …) of images (B, 3, H, W)."""
        mean, logvar = self._moments(images)
        if self.normalizer is not None:
            mean, logvar = self.normalizer(mean), self.normalizer.normalize_logvar(logvar)
        return torch.cat([mean, logvar], dim=1)

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        def moments(images: Tensor) -> tuple[Tensor, Tensor]:
            distribution = self.autoencoder.encode(images).latent_dist
            return distribution.mean.float(), distribution.logvar.float()

        return self._encoding(moments, images)

    def mask(self, latents: Tensor, gate_noise: Tensor | None = None) -> GateOutput:
        """Mask (B, C) of latents (B, C, …)."""
        if self.importance is None or self.gate is None:
            return GateOutput(mask=latents.new_ones(latents.shape[:2]))
        return self.gate(self.importance(latents), gate_noise)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents (B, C, …)."""
        if self.normalizer is not None:
            latents = self.normalizer.inverse(latents)
        return self._decoding(lambda part: self.autoencoder.decode(part).sample.float(), latents)

    def noised(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Latents with noise, and what the denoiser should say of them.

        x_t = √ᾱ·latents + √(1 − ᾱ)·noise (Ho et al., arXiv 2006.11239, eq. 4); the target is the
        noise, or v = √ᾱ·noise − √(1 − ᾱ)·latents (Salimans and Ho, arXiv 2202.00512). With
        `open_channels_only` the mask takes noise and latents away, else the latents alone.

        Args:
            latents: Before their mask, (B, C, …).
            noise: Standard normal, (B, C, …).
            timesteps: Integers, (B,).
            mask: (B, C); None leaves every channel open.

        Returns:
            x_t and target, (B, C, …) each.
        """
        scheduler: Any = self.scheduler
        weights = None if mask is None else by_channel(mask, latents)
        if weights is not None and not self.options.open_channels_only:
            latents = weights * latents
        noisy = scheduler.add_noise(latents, noise, timesteps)
        if weights is not None and self.options.open_channels_only:
            noisy = weights * noisy
        if not self.predicts_velocity:
            return noisy, noise
        return noisy, scheduler.get_velocity(latents, noise, timesteps)

    def predict(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> Tensor:
        """What the denoiser says (B, C, …) of noisy latents, told so much of each picture."""
        told_too = (told,) if told is not None else ()
        return self._predicting(
            lambda *part: self.denoiser(*part).sample.float(), noisy, timesteps, *told_too
        )

    def predict_noise(self, noisy: Tensor, timesteps: Tensor, told: Told | None = None) -> Tensor:
        """The denoiser's guess (B, C, …) of the noise in noisy latents, whatever it predicts."""
        prediction = self.predict(noisy, timesteps, told)
        if not self.predicts_velocity:
            return prediction
        alphas = by_picture(self.scheduler.alphas_cumprod.to(noisy.device)[timesteps], noisy)
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
                cached latents, (B, 2C, …).
            draws: Random numbers.
            stage: What is trained.
            told: What the denoiser is told of each picture, see `tell_classes`.
        """
        if stage == "denoiser":
            latent = sample_moments(inputs, draws.latent_noise)  # latents (B, C, …)
            if self.gate is not None:
                self.gate.eval()  # it has finished learning
            with torch.no_grad():
                gate = self.mask(latent.latents)  # mask (B, C)
        else:
            latent = self.encode(inputs, draws.latent_noise)  # latents (B, C, …)
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
        latents, mask = _scale_gradient(latents, share), _scale_gradient(mask, share)
        noisy, target = self.noised(latents, draws.noise, draws.timesteps, mask)
        prediction = self.predict(noisy, draws.timesteps, told)  # (B, C, …)
        if not self.is_flow:
            return prediction, target
        # (prediction − target) / s is the error of the flow itself
        size = by_picture(flow_size(draws.timesteps).to(noisy), noisy)
        return prediction / size, target / size


def _scale_gradient(tensor: Tensor, share: float) -> Tensor:
    """The same tensor, of whose gradient only `share` goes back."""
    if share == 1.0:
        return tensor
    return tensor.detach() + share * (tensor - tensor.detach()) if share else tensor.detach()


def sample_moments(moments: Tensor, latent_noise: Tensor) -> LatentBatch:
    """Latents drawn from cached moments (B, 2C, …): means, then log-variances."""
    mean, logvar = moments.chunk(2, dim=1)  # (B, C, …) each
    return LatentBatch(mean, logvar, mean + torch.exp(0.5 * logvar) * latent_noise)


def build_system(config: RunConfig) -> LatentDiffusion:
    """Networks with fresh weights drawn from `config.run.seed`, on the CPU.

    Raises:
        ConfigError: If there are no networks of these sizes.
    """
    try:
        return _build_system(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(
            f"The networks of these settings cannot be built: {in_one_line(error)}."
        ) from error


def _build_system(config: RunConfig) -> LatentDiffusion:
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
