"""One whole sampling: networks in torch, noise, steps, pictures; timed, its memory measured."""

import gc
import os
import time
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate
from typing import Any, Protocol

import diffusers
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from pelap.config.run_config import NoiseConfig
from pelap.core.errors import ConfigError, ModelError
from pelap.core.json_values import JsonObject
from pelap.families.registry import denoiser_family, example_inputs
from pelap.method.forward_process import build_scheduler
from pelap.method.normalizer import LatentNormalizer
from pelap.method.sampling import SAMPLERS, build_sampler, denoise
from pelap.models.loaded import LoadedModel, read_forward_process
from pelap.models.precision import InPrecision, Precision

MEMORY_STEPS = 4
"""Steps of the sampling whose memory is measured: no sampler remembers more than three."""


class SamplingNetworks(Protocol):
    """A denoiser and a decoder, with their conditions inside, as `TorchNetworks` describes them."""

    def predict(self, latents: Tensor, timestep: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class TorchNetworks:
    """A model's networks in torch. Text, classes and sizes are the random ones of `example_inputs`.

    Args:
        model: With a denoiser of a known class; it stays as it is.
        side: Height and width of the latents.
        precision: Of weights and arithmetic; latents are float32 between calls.
        compiled: Whether torch.compile translates both networks.
        device: Where they compute.
    """

    def __init__(
        self,
        model: LoadedModel,
        side: int,
        precision: Precision = "fp32",
        *,
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ):
        self._denoiser, self._autoencoder = (
            InPrecision(network, precision, compiled=compiled, device=device)
            for network in (model.denoiser, model.autoencoder)
        )
        normalizer = model.normalizer or LatentNormalizer(model.num_channels).eval()
        self._normalizer = normalizer.to(device)
        self._family = denoiser_family(self._denoiser.network)
        self._examples = cache(partial(example_inputs, self._denoiser.network, side=side))

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """What the denoiser says of noisy latents (B, C, h, w) at a 0-dimensional timestep:
        (B, C, h, w), float32, without its variance."""
        (_, given), *others = self._examples(len(latents)).items()
        family, channels = self._family, latents.shape[1]
        timesteps = timestep.to(latents.device).expand(len(latents))
        if family.timestep_divisor != 1:
            timesteps = timesteps / family.timestep_divisor
        packed = family.packing.pack(latents)
        if given.shape[1] > packed.shape[1]:  # inpainting: mask and picture
            packed = torch.cat([packed, given[:, channels:].float()], dim=1)
        predicted = self._denoiser(packed, **dict(others) | {"timestep": timesteps}).sample
        return family.packing.unpack(predicted, *latents.shape[2:])[:, :channels]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W), float32, of latents (B, C, h, w) as the denoiser sees them."""
        return self._autoencoder.decode(self._normalizer.inverse(latents)).sample


@dataclass(frozen=True)
class Seconds:
    """How long a batch took."""

    denoising: float
    decoding: float

    @property
    def total(self) -> float:
        """Denoising and decoding."""
        return self.denoising + self.decoding


def make_scheduler(config: JsonObject, sampler: str) -> Any:
    """The named sampler for a model's scheduler; where that has no betas, the model's own.

    Args:
        config: Of the model's scheduler; empty for the forward process of pelap's presets.
        sampler: One of SAMPLERS.

    Raises:
        ConfigError: If the sampler is unknown.
        ModelError: If the model's scheduler is unknown.
    """
    if sampler not in SAMPLERS:
        raise ConfigError(f"--sampler is {sampler!r}: known are {', '.join(SAMPLERS)}.")
    fixed = {"variance_type": "fixed_small"}  # predicted variances are left out
    process = (
        read_forward_process({**config, **fixed}) if config else build_scheduler(NoiseConfig())
    )
    if process is not None:
        return build_sampler(sampler, process)
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise ModelError(f"The scheduler {config.get('_class_name')} is none of diffusers'.")
    # a shift that depends on the number of pixels costs no time, but must be told the number
    return kind.from_config(config, use_dynamic_shifting=False)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Sampling:
    """Drawing pictures with one model."""

    networks: SamplingNetworks
    scheduler: Any
    """A diffusers scheduler."""
    shape: tuple[int, int, int]
    """(C, h, w)."""
    steps: int
    device: torch.device

    def run(self, batch_size: int, steps: int | None = None) -> Seconds:
        """Draw a batch and drop it.

        Args:
            batch_size: B.
            steps: Other than its own.
        """
        source = torch.Generator(self.device).manual_seed(0)
        noise = torch.randn(batch_size, *self.shape, generator=source, device=self.device)
        begin = self._now()
        latents = denoise(self._predict, self.scheduler, noise, steps or self.steps)  # type: ignore[arg-type]
        middle = self._now()
        self.networks.decode(latents)
        return Seconds(middle - begin, self._now() - middle)

    def _predict(self, latents: Tensor, timestep: Tensor) -> DecoderOutput:
        return DecoderOutput(sample=self.networks.predict(latents, timestep))

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def working_memory(self, batch_size: int) -> int:
        """Bytes of tensors that a sampling holds at most, beyond those that there were before.

        On a GPU torch's allocator counts them, on the CPU the profiler, which records every
        allocation. What other libraries allocate on their own is not in it.
        """
        steps = min(self.steps, MEMORY_STEPS)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.run(batch_size, steps)
            return torch.cuda.max_memory_allocated() - before
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its remarks on stderr
        fresh = type(self.scheduler).from_config(self.scheduler.config)
        kept = dict(vars(fresh))  # so that nothing is freed that the profiler has not seen
        gc.collect()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            replace(self, scheduler=fresh).run(batch_size, steps)
        del kept
        events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        in_time = sorted(events, key=lambda event: event.start_ns())
        changes = (event.nbytes() for event in in_time if event.name() == "[memory]")
        return max(accumulate(changes, initial=0))
