"""Values by channel or by picture beside latents (B, C, *axes), whatever axes there are."""

from torch import Tensor


def by_channel(values: Tensor, latents: Tensor) -> Tensor:
    """Values (C,) or (B, C) as (C, 1, …) or (B, C, 1, …), to broadcast with latents (B, C, *axes).

    A mask is one of these, and so are a normaliser's statistics.
    """
    return values[(..., *[None] * (latents.dim() - 2))]


def by_picture(values: Tensor, latents: Tensor) -> Tensor:
    """Values (B,) as (B, 1, …), to broadcast with latents (B, C, *axes)."""
    return values[(..., *[None] * (latents.dim() - 1))]


def axes_of(latents: Tensor) -> tuple[int, ...]:
    """The numbers of the axes behind the channels, to average over positions."""
    return tuple(range(2, latents.dim()))
