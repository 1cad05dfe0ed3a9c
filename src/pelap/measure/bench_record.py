"""What `pelap bench sample` measured. No torch here."""

from dataclasses import dataclass, field

from pelap.core.records import OPTIONAL


@dataclass(frozen=True)
class Measurement:
    """One model in one setting."""

    precision: str
    compiled: bool
    batch_size: int
    seconds_per_picture: float
    """Median over the rounds, of whole samplings."""
    pictures_per_second: float
    peak_memory_bytes: int | None
    """Weights of denoiser and decoder, and the most that a sampling holds beside them; None for
    onnxruntime, whose allocations torch does not see."""
    denoising_share: float
    """Part of the time; the rest is decoding."""


@dataclass(frozen=True)
class ModelCost:
    """Counts and times of one model."""

    name: str
    backend: str
    scheduler: str
    """Class of diffusers that made the steps."""
    parameters: dict[str, int | None]
    """By encoder, decoder, denoiser and total; None where only an export is known."""
    macs: dict[str, int | None]
    """Multiply-accumulates for one picture: denoiser_step, decode."""
    latent_shape: tuple[int, int, int]
    """(C, h, w)."""
    latent_bytes: int
    """Size of a latent in the first precision."""
    measurements: list[Measurement] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """Time of the second model over that of the first in one setting, over the rounds."""

    precision: str
    compiled: bool
    batch_size: int
    ratio: float
    """Median: how many times as fast the first model is."""
    ratio_min: float
    ratio_max: float


@dataclass(frozen=True)
class SamplingBench:
    """One model, or two in turn, in every setting that was asked for."""

    models: list[ModelCost]
    sampler: str
    steps: int
    rounds: int
    backend: str
    device: str
    machine: str
    versions: dict[str, str]
    ratios: list[Ratio] | None = field(default=None, metadata=OPTIONAL)
    """For each setting of two models; None for a single model."""
