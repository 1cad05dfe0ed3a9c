"""What a digest tells apart, and what it does not."""

from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from pelap.core.digests import digest


def test_equal_contents_have_one_digest_and_others_another():
    values = torch.arange(6.0)
    found = [
        digest(values),
        digest(values.reshape(2, 3)),
        digest(values.double()),
        digest(values + 1),
        digest("values"),
        digest({"values": 1}),
        digest(values, "values"),
    ]
    assert len(set(found)) == len(found)
    assert digest(values.reshape(2, 3).T.contiguous().T) == digest(values.reshape(2, 3))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_network_counts_with_its_weights_and_its_public_config():
    def network(**config: Any) -> UNet2DModel:
        torch.manual_seed(0)
        return UNet2DModel(
            block_out_channels=(8,), down_block_types=("DownBlock2D",), norm_num_groups=4,
            up_block_types=("UpBlock2D",), layers_per_block=1, in_channels=3, **config,
        )  # fmt: skip

    first = digest(network(sample_size=8))
    assert digest(network(sample_size=8)) == first
    assert digest(network(sample_size=16)) != first
    moved = network(sample_size=8)
    moved.register_to_config(_name_or_path="elsewhere")
    assert digest(moved) == first
    with torch.no_grad():
        moved.conv_in.weight.flatten()[0] += 1
    assert digest(moved) != first


def test_names_of_weights_count():
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    assert digest(nn.Sequential(layer)) != digest(layer)
