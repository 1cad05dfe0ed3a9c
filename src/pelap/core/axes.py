"""Latents (B, C, …) have any number of axes behind their channels: pictures two, video three."""

from torch import Tensor


def append_axes(values: Tensor, like: Tensor) -> Tensor:
    """`values` with axes of length 1 appended until they are as many as those of `like`."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))


def position_axes(latents: Tensor) -> tuple[int, ...]:
    """The axes of latents behind samples and channels."""
    return tuple(range(2, latents.dim()))
