"""How latents are handed to a denoiser: as they are, or patch by patch."""

from dataclasses import dataclass
from itertools import chain

from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Patches of latents as tokens, the way of diffusers' FluxPipeline.

    Latents may have any number n of axes behind the channel axis.
    """

    side: int = 1
    """Latent pixels along each axis of a patch; 1 leaves latents as they are."""

    def pack(self, latents: Tensor) -> Tensor:
        """(B, C, *axes) → (B, product of axes / sideⁿ, C · sideⁿ)."""
        if self.side == 1:
            return latents
        size, channels, *axes = latents.shape
        split = chain.from_iterable((length // self.side, self.side) for length in axes)
        parts = latents.reshape(size, channels, *split)
        tokens, inside = range(2, parts.dim(), 2), range(3, parts.dim(), 2)
        return parts.permute(0, *tokens, 1, *inside).flatten(1, len(axes)).flatten(2)

    def unpack(self, packed: Tensor, *axes: int) -> Tensor:
        """The inverse of `pack`, for latents of these axes: (B, C, *axes)."""
        if self.side == 1:
            return packed
        num_axes = len(axes)
        tokens = [length // self.side for length in axes]
        parts = packed.reshape(len(packed), *tokens, -1, *[self.side] * num_axes)
        order = chain.from_iterable((1 + i, 2 + num_axes + i) for i in range(num_axes))
        return parts.permute(0, 1 + num_axes, *order).reshape(len(packed), -1, *axes)


UNPACKED = Packing()
