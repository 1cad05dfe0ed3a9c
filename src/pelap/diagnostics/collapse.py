"""Tell a healthy latent diffusion model from an empty one.

The noise loss cannot: it falls when the latent disappears. So two other things decide: whether
the masks are open, and whether the latents that reach the denoiser have any size beside unit noise.
The denoiser's loss with zeros in the latent's place is reported with each verdict but decides
nothing: also a sound denoiser may find zeros easier.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["healthy", "shrunken", "collapsed"]

OPEN_MASK = 0.1
"""A channel whose mean mask is below this carries under 1 % of its power past the gate: closed."""
MIN_LATENT_STD = 0.25
"""Below this the best linear predictor's noise loss is under 0.1, against 0.28 at unit scale."""


@dataclass(frozen=True)
class CollapseEvidence:
    """What was measured on the test pictures; per channel where it is a list."""

    mask_mean: list[float]
    """Mean mask, 1 without a gate."""
    masked_latent_std: list[float]
    """Standard deviation of the latents that reach the denoiser."""
    diffusion_loss: float
    """The denoiser's noise loss with those latents."""
    zero_latent_diffusion_loss: float
    """The same with the latents set to zero, same noise and timesteps."""


@dataclass(frozen=True)
class CollapseVerdict:
    """The verdict and why, in plain words with the figures."""

    verdict: Verdict
    reasons: list[str]


def judge(evidence: CollapseEvidence) -> CollapseVerdict:
    """Decide between healthy, shrunken (latents scaled away) and collapsed (masks closed)."""
    masks = evidence.mask_mean
    open_channels = [c for c, mask in enumerate(masks) if mask >= OPEN_MASK]
    closed = [c for c, mask in enumerate(masks) if mask < OPEN_MASK]
    with_and_without = (
        f"the denoiser's loss is {evidence.diffusion_loss:.4f} with the latents and "
        f"{evidence.zero_latent_diffusion_loss:.4f} with zeros in their place"
    )
    if not open_channels:
        return CollapseVerdict(
            "collapsed",
            [
                f"all {len(masks)} masks are closed: the widest open has mean {max(masks):.4f}, "
                f"below {OPEN_MASK}",
                with_and_without,
            ],
        )
    reasons = [f"channel {c} is closed: mean mask {masks[c]:.4f}" for c in closed]
    widest = max(evidence.masked_latent_std[c] for c in open_channels)
    if widest < MIN_LATENT_STD:
        reasons.append(
            f"masks are open but the latents are small beside unit noise: the widest open channel "
            f"has standard deviation {widest:.4f}, below {MIN_LATENT_STD}"
        )
        return CollapseVerdict("shrunken", [*reasons, with_and_without])
    reasons.append(
        f"{len(open_channels)} of {len(masks)} channels are open; the widest has standard "
        f"deviation {widest:.3f}"
    )
    return CollapseVerdict("healthy", [*reasons, with_and_without])
