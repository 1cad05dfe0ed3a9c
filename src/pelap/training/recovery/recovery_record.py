"""What a recovery leaves in the history of a model."""

from typing import TypedDict

from pelap.core.json_values import JsonObject


class RecoveryFacts(TypedDict):
    """What it learned from."""

    teacher: str | None
    """By name."""
    data: str
    unconditional: bool
    """Whether a denoiser that takes text or classes was told nothing."""
    conditions: str | None
    """captions or classes."""


class RecoveryRecord(RecoveryFacts):
    """What was trained, how, and what it brought."""

    recovered: str
    """The day."""
    pelap: str
    """The version."""
    steps: int
    parts: str
    feature_weight: float
    learning_rate: float | None
    decoder_learning_rate: float | None
    train: str
    precision: str
    batch_size: int
    seed: int
    psnr_db_before: float
    psnr_db: float
    noise_loss_before: float | None
    noise_loss: float | None
    """None where the denoiser was left as it is."""
    denoiser_before: JsonObject | None
    denoiser: JsonObject | None
    """Fields of `DenoiserFidelity`; None without a teacher."""
    num_pictures: int
