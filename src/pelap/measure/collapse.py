"""Tell a healthy latent diffusion model from an empty one.

The noise loss cannot: it falls when the latent disappears. So three other things decide: whether
the masks are open, whether the latents that reach the denoiser have any size beside unit noise, and
whether the denoiser recovers the clean latent better than its mean would, measured in the latent's
own variance. The denoiser's loss with zeros in the latent's place is reported with each verdict but
decides nothing: also a sound denoiser may find zeros easier.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pelap.core.errors import RunError

Verdict = Literal["healthy", "shrunken", "collapsed", "undertrained"]

OPEN_MASK = 0.1
"""A channel whose mean mask is below this carries under 1 % of its power past the gate: closed."""
MIN_LATENT_STD = 0.25
"""Below this the best linear predictor's noise loss is under 0.1, against 0.28 at unit scale."""
MAX_RELATIVE_ERROR = 0.75
"""Error of the recovered clean latent at 0 dB, in its own variance: half-way between the best
linear guess (0.5) and a denoiser that always says the mean, or sees no noise (1)."""


@dataclass(frozen=True)
class CollapseEvidence:
    """What was measured on the test pictures; per channel where it is a list."""

    mask_mean: list[float]
    """Mean mask, 1 without a gate."""
    masked_latent_std: list[float]
    """Standard deviation of the latents that reach the denoiser."""
    diffusion_loss: float | None = None
    """The denoiser's noise loss with those latents; None before there is a denoiser."""
    zero_latent_diffusion_loss: float | None = None
    """The same with the latents set to zero, same noise and timesteps."""
    relative_error: float | None = None
    """Error of the recovered clean latent at a signal-to-noise ratio of 0 dB, in the latent's own
    variance; None where it was not measured, or no timestep has that ratio."""
    least_snr_db: float | None = None
    """Signal-to-noise ratio at the last timestep; None where it was not measured."""


@dataclass(frozen=True)
class CollapseVerdict:
    """The verdict and why, in plain words with the figures."""

    verdict: Verdict
    reasons: list[str]


def judge(evidence: CollapseEvidence) -> CollapseVerdict:
    """Decide between healthy, collapsed (masks closed), shrunken (latents scaled away) and
    undertrained (a denoiser that recovers nothing, or never sees noise that it could recover from).

    Raises:
        RunError: If a figure is not finite.
    """
    _refuse_broken(evidence)
    masks = evidence.mask_mean
    open_channels = [c for c, mask in enumerate(masks) if mask >= OPEN_MASK]
    closed = [c for c, mask in enumerate(masks) if mask < OPEN_MASK]
    losses = _losses(evidence)
    if not open_channels:
        reason = (
            f"all {len(masks)} masks are closed: the widest open has mean {max(masks):.4f}, "
            f"below {OPEN_MASK}"
        )
        return CollapseVerdict("collapsed", [reason, *losses])
    deviations = evidence.masked_latent_std
    named = [f"channel {c} is closed: mean mask {masks[c]:.4f}" for c in closed]
    widest = max(deviations[c] for c in open_channels)
    if widest < MIN_LATENT_STD:
        reason = (
            f"masks are open but the latents are small beside unit noise: the widest open channel "
            f"has standard deviation {widest:.4f}, below {MIN_LATENT_STD}"
        )
        return CollapseVerdict("shrunken", [reason, *named, *losses])
    named += [
        f"channel {c} is open but scaled away: standard deviation {deviations[c]:.4f}"
        for c in open_channels
        if deviations[c] < MIN_LATENT_STD
    ]
    opened = (
        f"{len(open_channels)} of {len(masks)} channels are open; the widest has standard "
        f"deviation {widest:.3f}"
    )
    error, least = evidence.relative_error, evidence.least_snr_db
    if error is None and least is not None and least > 0:
        drowned = (
            f"the noise never drowns latents of this size: the signal-to-noise ratio stays above "
            f"{least:.1f} dB, so the denoiser has not learned to start from noise"
        )
        return CollapseVerdict("undertrained", [drowned, opened, *named, *losses])
    if error is None:
        return CollapseVerdict("healthy", [opened, *named, *losses])
    recovered = (
        f"the clean latent recovered at 0 dB has an error of {error:.3f} of its own variance "
        f"(healthy is below {MAX_RELATIVE_ERROR:g}; the best linear guess has at most 0.5, "
        "always guessing the mean 1)"
    )
    verdict = "healthy" if error < MAX_RELATIVE_ERROR else "undertrained"
    reasons = [opened, recovered] if verdict == "healthy" else [recovered, opened]
    return CollapseVerdict(verdict, [*reasons, *named, *losses])


def _refuse_broken(evidence: CollapseEvidence) -> None:
    figures = {
        "masks": evidence.mask_mean,
        "standard deviation of the latents": evidence.masked_latent_std,
        "denoiser's loss": [evidence.diffusion_loss, evidence.zero_latent_diffusion_loss],
        "error of the recovered latent": [evidence.relative_error],
    }
    for name, values in figures.items():
        if not all(value is None or math.isfinite(value) for value in values):
            raise RunError(
                f"The model is broken, there is nothing to judge: its {name} is {values}."
            )


def _losses(evidence: CollapseEvidence) -> list[str]:
    with_latents, with_zeros = evidence.diffusion_loss, evidence.zero_latent_diffusion_loss
    if with_latents is None or with_zeros is None:
        return []
    return [
        f"the denoiser's loss is {with_latents:.4f} with the latents and {with_zeros:.4f} with "
        "zeros in their place"
    ]
