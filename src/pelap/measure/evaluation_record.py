"""What an evaluation holds. No torch here: the report reads it back from evaluation.json."""

from dataclasses import dataclass, field

from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError
from pelap.core.records import OPTIONAL, from_json_dict
from pelap.measure.collapse import CollapseVerdict


@dataclass(frozen=True)
class MetricValue:
    """One quality metric, how many pictures it is made of, and its spread over resamples."""

    value: float
    num_pictures: int
    num_references: int | None = None
    std: float | None = None
    low: float | None = None
    """2.5th percentile; None where nothing was resampled, as for `std` and `high`."""
    high: float | None = None
    """97.5th percentile."""
    sampler: str | None = field(default=None, metadata=OPTIONAL)
    """That drew the samples of an evaluation, in `num_steps` steps."""
    num_steps: int | None = field(default=None, metadata=OPTIONAL)
    guidance: float | None = field(default=None, metadata=OPTIONAL)
    """Towards the class, where the denoiser is told one."""


@dataclass(frozen=True)
class StaticSet:
    """One set of channels in place of an adaptive gate's choice, and what that costs."""

    channels: list[int]
    psnr_db: float
    adaptive_psnr_db: float
    """With the gate's own choice, same pictures."""
    cost_db: float
    """The difference."""
    num_pictures: int


@dataclass(frozen=True)
class ChannelSets:
    """Which channels an adaptive gate opened, most frequent sets first."""

    num_sets: int
    sets: list[list[int]]
    """Open channels by number."""
    frequencies: list[float]
    """Share of each set over all pictures."""
    frequencies_by_class: dict[str, list[float]]
    static: StaticSet
    """The one set that reconstructs best."""


@dataclass(frozen=True)
class MaskHistogram:
    """Masks of each channel in equal bins over [0, 1]."""

    bin_edges: list[float]
    counts: list[list[int]]
    """Pictures in each bin, a list a channel."""


@dataclass(frozen=True)
class SamplerUse:
    """How the samples of an evaluation were drawn."""

    name: str
    num_steps: int
    num_samples: int
    seed: int
    guidance: float | None = None
    """Towards the class; None where the denoiser is told none."""
    channel_sets: str | None = field(default=None, metadata=OPTIONAL)
    """Whose channels were open, for an adaptive gate: "static"."""
    precision: str | None = field(default=None, metadata=OPTIONAL)
    """Of the networks where it was not fp32."""


@dataclass(frozen=True)
class Evaluation:
    """A run's model on the test pictures; images are in [-1, 1], lists are per channel."""

    run: str
    """Name of its folder."""
    preset: str
    split: str
    num_pictures: int
    num_parameters: dict[str, int]
    """By part, and all in `total`."""
    diffusion_loss: float
    """Squared error a value of the predicted noise."""
    zero_latent_diffusion_loss: float
    """The same with zeros in the latents' place, same noise and timesteps."""
    gaussian_diffusion_loss: float
    """What the best predictor reaches for independent Gaussian latents of the same spread."""
    reconstruction_mse_sum: float
    """Squared error summed over a picture's values, mean over pictures."""
    reconstruction_psnr_db: float
    masked_reconstruction_mse_sum: float
    """Decoding the latents after the mask, as the next."""
    masked_reconstruction_psnr_db: float
    mask_mean: list[float]
    active_channels: float
    """Channels with a mask above `active_threshold`, mean over pictures."""
    active_threshold: float
    mask_mean_by_class: dict[str, list[float]]
    mask_histogram: MaskHistogram
    latent_std: list[float]
    masked_latent_std: list[float]
    collapse: CollapseVerdict
    sampler: SamplerUse
    versions: dict[str, str]
    machine: str
    relative_error: float | None = None
    """Of the clean latent recovered at 0 dB, in its own variance; None where no timestep has
    that signal-to-noise ratio."""
    channel_sets: ChannelSets | None = field(default=None, metadata=OPTIONAL)
    """What an adaptive gate opened."""
    quality: dict[str, MetricValue] | None = field(default=None, metadata=OPTIONAL)
    """By metric, e.g. FD-ResNet20, where metrics were asked for."""


@dataclass(frozen=True)
class ModelEvaluation:
    """A model that is no run of ours on the test pictures; images are in [-1, 1]."""

    model: str
    data: str
    """Which pictures, in words."""
    split: str
    num_pictures: int
    num_diagnosed: int
    """Of them, for all but `quality`."""
    conditions: str | None
    """What the denoiser was told of each picture: captions, classes or nothing."""
    num_parameters: dict[str, int]
    """By part, and all in `total`."""
    diffusion_loss: float
    """Squared error a value of the predicted noise, mean over evenly spread timesteps."""
    zero_latent_diffusion_loss: float
    """The same with zeros in the latents' place, same noise and timesteps."""
    gaussian_diffusion_loss: float
    """What the best predictor reaches for independent Gaussian latents of the same spread."""
    reconstruction_psnr_db: float
    latent_std: list[float]
    """Of each channel."""
    relative_error: float | None
    """Of the clean latent recovered at 0 dB, in its own variance; None where no timestep has
    that signal-to-noise ratio."""
    collapse: CollapseVerdict
    sampler: SamplerUse
    versions: dict[str, str]
    machine: str
    quality: dict[str, MetricValue] | None
    """By metric, e.g. FD-ResNet20, where metrics were asked for."""


def read_evaluation(folder: RunFolder) -> Evaluation:
    """What `pelap evaluate` wrote into a run folder.

    Raises:
        RunError: If the run has not been evaluated, or its evaluation.json does not fit.
    """
    return from_json_dict(Evaluation, folder.evaluation(), str(folder.evaluation_path), RunError)
