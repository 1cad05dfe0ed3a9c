"""What a diagnosis holds. No torch here: the report reads it back from diagnosis.json."""

from dataclasses import dataclass, field

from pelap.core.records import OPTIONAL
from pelap.measure.collapse import CollapseVerdict


@dataclass(frozen=True)
class LevelLosses:
    """The denoiser at one timestep. Losses are squared errors a value of the predicted noise."""

    timestep: int
    snr_db: float | None
    """Signal-to-noise ratio of the noisy latents; None where there is no signal at all."""
    diffusion_loss: float
    """With the latents."""
    zero_latent_diffusion_loss: float
    """With zeros in their place, same noise."""
    gaussian_diffusion_loss: float
    """Closed form: the best linear predictor for independent Gaussian latents of this spread."""


@dataclass(frozen=True)
class SnrError:
    """How well the clean latent is recovered at one signal-to-noise ratio.

    Errors are squared errors over the latent's own variance: 1 is always guessing its mean.
    """

    snr_db: float
    """Asked for."""
    timestep: int | None
    """The nearest one; None where there is none within SNR_TOLERANCE_DB."""
    relative_error: float | None
    """What the denoiser reaches; None where there is no such timestep."""
    linear_relative_error: float
    """What the best linear predictor reaches for equally wide channels: 1 / (1 + SNR)."""


@dataclass(frozen=True)
class DiagnosedPictures:
    """Where the pictures of a diagnosis came from."""

    source: str
    path: str | None
    size: int
    """Height and width in pixels."""


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` measured, and its verdict. Lists are per channel, by level, or by ratio."""

    num_pictures: int
    levels: list[LevelLosses]
    recovery: list[SnrError]
    diffusion_loss: float
    """Mean over the levels, as the next two."""
    zero_latent_diffusion_loss: float
    gaussian_diffusion_loss: float
    latent_std: list[float]
    masked_latent_std: list[float]
    mask_mean: list[float]
    reconstruction_psnr_db: float
    """Decoding the latents, images in [-1, 1]."""
    masked_reconstruction_psnr_db: float
    """Decoding the latents after the mask."""
    collapse: CollapseVerdict
    notes: list[str]
    """What could not be measured, and why."""
    least_snr_db: float | None = None
    """At the last timestep; None where there is no signal at all."""
    model: str | None = field(default=None, metadata=OPTIONAL)
    """Name of what was diagnosed, where it has one."""
    split: str | None = field(default=None, metadata=OPTIONAL)
    data: DiagnosedPictures | None = field(default=None, metadata=OPTIONAL)
    seed: int | None = field(default=None, metadata=OPTIONAL)
    """Says which noise and which pictures."""
    versions: dict[str, str] | None = field(default=None, metadata=OPTIONAL)
    """Versions of pelap and of what it computes with."""
