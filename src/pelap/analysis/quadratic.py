"""What maps of the latents cost to second order: no decoding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pelap.analysis.elimination import conditional_costs
from pelap.method.latent_map import Fill, LatentMap, LatentMoments


def map_cost(latent_map: LatentMap, moments: LatentMoments, metric: Tensor) -> float:
    """tr(M · E[δ δᵀ]) of what the map changes of the latents, δ = (P − I)·latents + offset.

    Args:
        latent_map: P = decode · encode, and the offset.
        moments: Of the latents.
        metric: M of `DecoderMetric`, (C, C).
    """
    change = latent_map.decode @ latent_map.encode - torch.eye(len(metric), dtype=torch.float64)
    shift = change @ moments.mean + latent_map.offset  # (C,)
    errors = change @ moments.covariance @ change.T + torch.outer(shift, shift)  # (C, C)
    return max(0.0, float((metric * errors).sum()))


def removal_costs(
    metric: Tensor, moments: LatentMoments, fill: Fill, candidates: Sequence[Sequence[int]]
) -> Tensor:
    """The same for lists of kept channels, all of one length, (S,)."""
    if fill == "linear":
        return conditional_costs(metric, moments.covariance, candidates)
    errors = moments.covariance
    if fill == "zero":
        errors = errors + torch.outer(moments.mean, moments.mean)
    removed = torch.ones(len(candidates), len(metric), dtype=torch.float64)
    for row, kept in zip(removed, candidates, strict=True):
        row[list(kept)] = 0
    return torch.einsum("sc,cd,sd->s", removed, metric * errors, removed)
