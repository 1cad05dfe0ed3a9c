"""What an analysis holds. No torch here: the report reads it back from JSON."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from pelap.analysis.cost_record import AnalysisCost, Effort
from pelap.core.records import OPTIONAL

LEARNED_STEPS = 200
"""Of the importance predictor, where it is asked for without a number."""

Fill = Literal["zero", "mean", "linear"]


@dataclass(frozen=True)
class AnalysisSettings:
    """How much is measured, and on how many pictures."""

    num_pictures: int | None = 1000
    """Pictures of the pass; None takes all but those held apart for the curves."""
    batch_size: int = 32
    """Pictures in memory at a time, at most: of large ones fewer, unless `effort` is exact."""
    seed: int = 0
    num_probes: int = 4
    """Random vectors a batch that measure the decoder's Jacobian."""
    num_search: int = 64
    """Pictures of the pass on which channels are eliminated one by one."""
    num_curve: int = 256
    """Pictures held apart for the curves, at most half of all where the pass takes the rest."""
    num_random: int = 5
    """Random rankings to compare with."""
    fill: Fill = "linear"
    """What stands in for removed channels in the elimination and on the curves."""
    learned_steps: int | None = None
    """Steps of the importance predictor; 0 leaves that criterion out, as None does unless `effort`
    is exact."""
    num_bands: int = 4
    """Equal parts of the timesteps, for the denoiser's Taylor scores."""
    effort: Effort = "normal"
    """How much is decoded: exact leaves out every channel, tries every candidate of the search and
    measures every point of the curves, on all pictures meant for it; the others spare most."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "learned_steps" else 1
            if name not in ("fill", "seed", "effort") and value is not None and value < least:
                raise ValueError(f"{name} is {value}: it must be at least {least}.")
        if self.fill not in get_args(Fill):
            raise ValueError(f"fill is {self.fill!r}: it must be zero, mean or linear.")
        if self.effort not in get_args(Effort):
            raise ValueError(f"effort is {self.effort!r}: it must be fast, normal or exact.")

    @property
    def predictor_steps(self) -> int:
        """Steps of the importance predictor, 0 for none."""
        if self.learned_steps is None:
            return LEARNED_STEPS if self.effort == "exact" else 0
        return self.learned_steps


@dataclass(frozen=True)
class ChannelAnalysis:
    """One channel, measured on the pictures of the pass.

    Latents are those that the denoiser sees; losses are decoded squared errors a value of images
    in [-1, 1].
    """

    channel: int
    mean: float
    std: float
    energy: float
    """Variance over pictures and positions, of the latents as drawn."""
    kl: float
    """Divergence from the standard normal, nats a picture: the sum over positions."""
    active: bool
    """Whether the encoder's mean varies by more than 0.01 between pictures at the same position,
    mean over positions (Burda et al., arXiv 1509.00519, section 5.1)."""
    r2: float
    """Part of the variance that a linear prediction from the other channels explains."""
    leave_one_out_db: float
    """Fall of the PSNR when the channel is replaced by its mean; negative if that helps."""
    leave_one_out_linear_db: float
    """Fall of the PSNR when the channel is replaced by its linear prediction."""
    decoder_sensitivity: float
    """M_cc: squared error for a channel variance of 1, independent between positions."""
    expected_loss: float
    """M_cc · variance: what replacing it by its mean costs, to second order."""
    taylor: list[float] | None
    """Mean absolute derivative of the denoiser's loss by the channel's mask, for each band of
    timesteps from little noise to much; None without a denoiser."""
    score: float | None
    """What the learned predictor says; None where it was left out."""
    leave_one_out_db_by_class: list[float | None] | None
    """In the order of `Analysis.class_names`, None for a class without pictures; None if classes
    were not told apart."""


@dataclass(frozen=True)
class CurvePoint:
    """Reconstruction from the first channels of a ranking."""

    num_kept: int
    channels: list[int]
    """The kept channels, best first."""
    psnr_db: float
    """PSNR of all curve pictures together."""


@dataclass(frozen=True)
class CriterionResult:
    """One criterion: an order of the channels, and what it is worth."""

    name: str
    description: str
    """One sentence."""
    ranking: list[int]
    """Channels, the one to keep longest first."""
    values: list[float] | None
    """By channel number, larger is more important; None if the criterion is an order only."""
    curve: list[CurvePoint]
    """By rising number of kept channels."""

    def at(self, num_kept: int) -> CurvePoint:
        """The point with that many kept channels.

        Raises:
            ValueError: If the curve was not measured there.
        """
        for point in self.curve:
            if point.num_kept == num_kept:
                return point
        known = ", ".join(str(point.num_kept) for point in self.curve)
        raise ValueError(f"No curve was measured at {num_kept} channels: known are {known}.")


@dataclass(frozen=True)
class RandomCurve:
    """Channels kept at random: the first ones of some random rankings."""

    num_kept: list[int]
    psnr_db: list[list[float]]
    """For each of `num_kept` one value a draw."""
    mean_db: list[float]
    """Mean over the draws, for each of `num_kept`."""


@dataclass(frozen=True)
class RotationCurve:
    """The first directions of a rotated basis, kept instead of channels."""

    kind: str
    """pca or decoder."""
    num_kept: list[int]
    psnr_db: list[float]
    """For each of `num_kept`."""


@dataclass(frozen=True)
class MomentsResult:
    """First and second moments of the latents, over pictures and positions."""

    mean: list[float]
    covariance: list[list[float]]
    """Of the latents as drawn, C × C."""
    posterior_variance: list[float]
    """Mean of the encoder's variance."""


@dataclass(frozen=True)
class Agreement:
    """How alike the criteria order the channels."""

    names: list[str]
    tau: list[list[float | None]]
    """Kendall's τ-b of each two, in [-1, 1]; None where it is not defined (a constant value, one
    channel)."""


@dataclass(frozen=True)
class Analysis:
    """What `analyze` measured of a model; lists are by channel unless they say otherwise."""

    name: str
    """Name of the model."""
    num_channels: int
    num_pictures: int
    """Pictures of the pass."""
    num_search: int
    """Pictures of it on which channels were eliminated."""
    num_curve: int
    """Pictures of the curves."""
    psnr_db: float
    """Of the curve pictures with all channels: what the curves end at."""
    pass_psnr_db: float
    """With all channels, of the pictures on which channels were left out (of the pass, all or some,
    or crops): what `leave_one_out_db` falls from."""
    fill: str
    """What stands in for removed channels on the curves."""
    timestep_bands: list[list[int]]
    """First and last timestep of each band of `ChannelAnalysis.taylor`; empty without one."""
    channels: list[ChannelAnalysis]
    moments: MomentsResult
    eigenvalues: list[float]
    """Eigenvalues of the covariance, falling."""
    decoder_metric: list[list[float]]
    """M, C × C: small errors with covariance D in the latents, independent between positions,
    raise the squared error a value by tr(M · D)."""
    criteria: list[CriterionResult]
    random: RandomCurve
    rotations: list[RotationCurve]
    agreement: Agreement
    class_names: list[str]
    seed: int
    notes: list[str]
    """What could not be measured and what to beware of, plain sentences."""
    data: str | None = field(default=None, metadata=OPTIONAL)
    """Which pictures, in words, where they have a source."""
    model_digest: str | None = field(default=None, metadata=OPTIONAL)
    """Of the autoencoder's config and weights; None in analyses of a system in memory."""
    effort: str | None = field(default=None, metadata=OPTIONAL)
    """How much was decoded of what could be; None in files from before there was a choice."""
    cost: AnalysisCost | None = field(default=None, metadata=OPTIONAL)
    """How often the autoencoder ran; None in files from before it was counted."""

    def criterion(self, name: str) -> CriterionResult:
        """The criterion of that name.

        Raises:
            ValueError: If there is none.
        """
        for criterion in self.criteria:
            if criterion.name == name:
                return criterion
        known = ", ".join(criterion.name for criterion in self.criteria)
        raise ValueError(f"Unknown criterion {name!r}: known are {known}.")
