"""Patches of latents as tokens: as diffusers packs them, and for any number of axes."""

import pytest
import torch

from pelap.families.packing import UNPACKED, Packing
from tiny_models import pack as pack_as_flux
from tiny_models import unpack as unpack_as_flux


def test_packing_is_flux() -> None:
    latents, packing = torch.randn(2, 3, 8, 8), Packing(2)
    packed = packing.pack(latents)
    assert packed.equal(pack_as_flux(latents))
    assert packing.unpack(packed, 8, 8).equal(latents)
    assert packing.unpack(packed, 8, 8).equal(unpack_as_flux(packed))


@pytest.mark.parametrize("axes", [(4,), (4, 6), (2, 4, 6)])
def test_any_number_of_axes_comes_back(axes: tuple[int, ...]) -> None:
    latents = torch.randn(2, 3, *axes)
    packed = Packing(2).pack(latents)
    assert packed.shape == (2, latents[0, 0].numel() // 2 ** len(axes), 3 * 2 ** len(axes))
    corner = latents[:, 1][(slice(None), *[slice(0, 2)] * len(axes))].flatten(1)
    assert packed[:, 0, 2 ** len(axes) : 2 * 2 ** len(axes)].equal(corner)
    assert Packing(2).unpack(packed, *axes).equal(latents)
    assert UNPACKED.unpack(UNPACKED.pack(latents), *axes).equal(latents)
