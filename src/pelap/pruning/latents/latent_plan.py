"""From what is asked for to a map of the latents: which channels or directions stay."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import recommend
from pelap.core.errors import ConfigError, ModelError
from pelap.core.seeding import generator
from pelap.families.ports import AutoencoderPorts
from pelap.method.latent_map import (
    Fill,
    LatentMap,
    LatentMoments,
    Rotation,
    find_rotation,
    keep_channels,
)

RANDOM = "random"
"""The criterion that every other one is held against."""


@dataclass(frozen=True)
class PruneRequest:
    """What the user asked for: one of `channels`, `num_kept` and `max_psnr_drop`."""

    channels: tuple[int, ...] | None = None
    num_kept: int | None = None
    max_psnr_drop: float | None = None
    criterion: str | None = None
    """None takes the best one."""
    fill: Fill | None = None
    """None takes linear where it can be folded and moments are known."""
    rotation: Rotation = "none"
    seed: int = 0
    """Of the criterion `random`."""

    def is_asked(self) -> bool:
        """Whether anything was said of latent channels."""
        said = (self.channels, self.num_kept, self.max_psnr_drop, self.criterion, self.fill)
        return any(value is not None for value in said) or self.rotation != "none"

    def needs_analysis(self) -> bool:
        """Whether pictures must have been looked at."""
        return self.channels is None or self.fill in ("mean", "linear") or self.rotation != "none"


@dataclass(frozen=True)
class PrunePlan:
    """What will be removed."""

    latent_map: LatentMap
    moments: LatentMoments
    channels: tuple[int, ...]
    """Kept ones, rising; with a rotation the kept directions, 0 to K − 1."""
    num_channels: int
    fill: Fill
    rotation: Rotation
    criterion: str
    """Why these: a criterion's name, or "given"."""
    psnr_db: float | None
    """That the analysis measured for this plan; None where it has none."""
    psnr_db_before: float | None

    @property
    def removed(self) -> tuple[int, ...]:
        """The channels that are not kept; empty with a rotation."""
        if self.rotation != "none":
            return ()
        return tuple(sorted(set(range(self.num_channels)) - set(self.channels)))


def parse_keep(text: str, num_channels: int | None = None) -> tuple[tuple[int, ...] | None, int]:
    """`8` means eight channels, `0,2,3` (or `3,`) those channels.

    Returns:
        The channels or None, and how many.

    Raises:
        ConfigError: If it is neither, has duplicates, or is out of range.
    """
    try:
        values = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(
            f"--keep is {text!r}: give a number of channels (8) or channels (0,2,3)."
        ) from error
    if "," not in text:
        if len(values) != 1 or values[0] < 1:
            raise ConfigError(f"--keep is {text!r}: at least 1 channel must be kept.")
        return None, values[0]
    if not values or len(set(values)) < len(values) or min(values) < 0:
        raise ConfigError(f"--keep is {text!r}: channels must be distinct and 0 or more.")
    if num_channels is not None:
        _check_channels(values, num_channels)
    return tuple(sorted(values)), len(values)


def _check_channels(channels: Sequence[int], num_channels: int) -> None:
    """Refuse channels that the model does not have.

    Raises:
        ConfigError: Names the channel and the range.
    """
    for channel in channels:
        if not 0 <= channel < num_channels:
            raise ConfigError(
                f"--keep names channel {channel}: this model has 0 to {num_channels - 1}."
            )


def make_plan(
    request: PruneRequest, num_channels: int, ports: AutoencoderPorts, analysis: Analysis | None
) -> PrunePlan:
    """Decide what is removed.

    Args:
        request: What is wanted.
        num_channels: C of the model.
        ports: Of its autoencoder: what can be folded into it.
        analysis: Of the model; needed where the request says so.

    Raises:
        ConfigError: If the request cannot be met.
        ModelError: If this class of autoencoder cannot express it.
    """
    check_request(request, num_channels, ports)
    if analysis is not None and analysis.num_channels != num_channels:
        raise ConfigError(
            f"The analysis is of a model with {analysis.num_channels} channels, this one has "
            f"{num_channels}."
        )
    if analysis is None:
        if request.needs_analysis():
            raise ConfigError("Pictures are needed for that: give --data.source or --analysis.")
        assert request.channels is not None
        moments = _no_moments(num_channels)
        latent_map = keep_channels(request.channels, moments, "zero")
        return PrunePlan(
            latent_map, moments, tuple(sorted(request.channels)), num_channels, "zero", "none",
            "given", None, None,
        )  # fmt: skip
    moments = _read_moments(analysis)
    fill = request.fill or ("mean" if ports.tanh_scale is not None else "linear")
    if request.rotation != "none":
        return _rotated(request, analysis, moments, fill)
    channels, criterion, psnr = _choose(request, analysis)
    latent_map = keep_channels(channels, moments, fill)
    psnr = psnr if fill == analysis.fill else None
    return PrunePlan(
        latent_map, moments, tuple(sorted(channels)), num_channels, fill, "none", criterion, psnr,
        analysis.psnr_db,
    )  # fmt: skip


def _read_moments(analysis: Analysis) -> LatentMoments:
    """The moments that the analysis measured, as tensors."""
    found = analysis.moments
    values = (found.mean, found.covariance, found.posterior_variance)
    return LatentMoments(*(torch.tensor(value, dtype=torch.float64) for value in values))


def _no_moments(num_channels: int) -> LatentMoments:
    return LatentMoments(
        torch.zeros(num_channels, dtype=torch.float64),
        torch.eye(num_channels, dtype=torch.float64),
        torch.ones(num_channels, dtype=torch.float64),
    )


def check_request(request: PruneRequest, num_channels: int, ports: AutoencoderPorts) -> None:
    """Refuse what contradicts itself or the model; see `make_plan`."""
    wanted = (request.channels, request.num_kept, request.max_psnr_drop)
    if sum(value is not None for value in wanted) != 1:
        raise ConfigError("Give one of --keep and --max-psnr-drop.")
    if request.channels is not None:
        _check_channels(request.channels, num_channels)
        if request.rotation != "none":
            raise ConfigError("--rotate makes new directions: give --keep a number, not channels.")
        if request.criterion is not None:
            raise ConfigError("--criterion has nothing to choose: --keep names the channels.")
    if request.num_kept is not None and request.num_kept > num_channels:
        raise ConfigError(f"--keep is {request.num_kept}: this model has {num_channels} channels.")
    if request.rotation != "none" and request.criterion is not None:
        raise ConfigError("--criterion has nothing to choose: --rotate ranks its own directions.")
    if request.rotation != "none" and not (ports.rotates and ports.tanh_scale is None):
        raise ModelError("This autoencoder cannot store a change of basis: leave --rotate out.")
    if ports.tanh_scale is not None and request.fill == "linear":
        raise ModelError(
            "This autoencoder squashes latents before decoding: --fill must be zero or mean."
        )


def _choose(request: PruneRequest, analysis: Analysis) -> tuple[Sequence[int], str, float | None]:
    if request.channels is not None:
        return request.channels, "given", None
    if request.criterion == RANDOM:
        return _draw(request, analysis.num_channels), RANDOM, None
    try:
        if request.num_kept is not None and request.num_kept not in analysis.random.num_kept:
            name = request.criterion or _best_nearby(analysis, request.num_kept)
            return analysis.criterion(name).ranking[: request.num_kept], name, None
        found = recommend(
            analysis,
            keep=request.num_kept,
            max_psnr_drop=request.max_psnr_drop,
            criterion=request.criterion,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return found.channels, found.criterion, found.psnr_db


def _draw(request: PruneRequest, num_channels: int) -> list[int]:
    """Channels drawn without looking."""
    if request.num_kept is None:
        raise ConfigError(f"--criterion {RANDOM} needs a number of channels: give --keep.")
    source = generator(request.seed, "order", 0)
    return torch.randperm(num_channels, generator=source)[: request.num_kept].tolist()


def _best_nearby(analysis: Analysis, num_kept: int) -> str:
    """The criterion that is best at the nearest number of channels that was measured."""
    nearest = min(analysis.random.num_kept, key=lambda known: abs(known - num_kept))
    return recommend(analysis, keep=nearest).criterion


def _rotated(
    request: PruneRequest, analysis: Analysis, moments: LatentMoments, fill: Fill
) -> PrunePlan:
    (curve,) = [one for one in analysis.rotations if one.kind == request.rotation]
    measured = dict(zip(curve.num_kept, curve.psnr_db, strict=True))
    num_kept = request.num_kept
    if num_kept is None:
        assert request.max_psnr_drop is not None
        least = analysis.psnr_db - request.max_psnr_drop
        num_kept = min((k for k, psnr in measured.items() if psnr >= least), default=None)
        if num_kept is None:
            raise ConfigError(f"No rotation stays within {request.max_psnr_drop:g} dB.")
    metric = torch.tensor(analysis.decoder_metric, dtype=torch.float64)
    rotation = find_rotation(request.rotation, moments, metric, num_kept)
    latent_map = keep_channels(range(num_kept), moments, fill, rotation)
    psnr = measured.get(num_kept) if fill == analysis.fill else None
    return PrunePlan(
        latent_map, moments, tuple(range(num_kept)), analysis.num_channels, fill, request.rotation,
        f"rotation {request.rotation}", psnr, analysis.psnr_db,
    )  # fmt: skip
