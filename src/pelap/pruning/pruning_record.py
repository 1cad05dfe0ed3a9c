"""What a pruning leaves in the history of a model."""

from typing import NotRequired, TypedDict

from pelap.core.json_values import JsonObject


class TimedShapeRecord(TypedDict):
    """A shape near the chosen one whose MACs become time."""

    widths: list[int]
    macs: int
    share: float
    """Of the original's time."""


class StepTimeRecord(TypedDict):
    """What a step of one picture took where the model was pruned, in turn with the original."""

    share: float
    """Of the original's time."""
    is_less: bool
    """Whether that is hardly more than the share of the MACs."""
    nearest: TimedShapeRecord | None
    """Where it is not, if there is one."""


class WidthRecord(TypedDict):
    """A denoiser made narrower."""

    criterion: str
    macs_before: int
    macs: int
    """Of a denoising step of one picture."""
    kept_score: float
    config: dict[str, list[object]]
    """Before and after, of each field that changed."""
    differences: dict[str, float]
    """Shares by which layers differ that no weight can make the same."""
    features: dict[str, list[object]]
    """By block: its name before, and the features that it kept."""
    candidates: NotRequired[list[JsonObject]]
    """Shapes that were compared, best first: fields of `Candidate`."""
    nearest: NotRequired[list[JsonObject | None]]
    """Where no shape met the target: widths and macs of the nearest below and above."""
    below_target: NotRequired[bool]
    """True where a shape that costs less than those at the target was preferred to them."""
    time: NotRequired[StepTimeRecord]
    """Where shapes were compared by their predictions and a step is long enough to tell."""


class TokensRecord(TypedDict):
    """A denoiser with larger patches."""

    patch_sizes: list[int]
    """Before and after."""
    macs_before: int
    macs: int
    """Of a denoising step of one picture."""
    carried: int
    """Features of its stream that no block reads, for what is within a patch."""
    error: float | None
    """‖p − q‖ / ‖q‖ of its prediction p and that q with all tokens, its last layer fitted; None
    where it was not run."""


class PruningCosts(TypedDict, total=False):
    """What was measured of it; PSNR only with pictures."""

    parameters_before: int
    parameters: int
    psnr_db_before: float
    psnr_db: float
    num_pictures: int
    data: str
    """The pictures, in words."""
    denoiser: JsonObject
    """Fields of `DenoiserFidelity`."""


class LatentsRecord(TypedDict):
    """Latent channels removed, or all kept."""

    channels_before: int
    channels_after: int
    kept: list[int]
    criterion: str | None
    """None where all latent channels stay."""
    fill: str
    rotation: str
    encode: NotRequired[list[list[float]]]
    """Of a rotation: (K, C)."""


class PruningRecord(LatentsRecord, PruningCosts):
    """What was removed, and what that costs."""

    pruned: str
    """The day."""
    pelap: str
    """The version."""
    width: NotRequired[WidthRecord]
    tokens: NotRequired[TokensRecord]
