"""Whether fewer MACs are less time, and where they are not, the nearest shape where they are."""

from typing import Any

import pytest
from torch import nn

from pelap.commands.prune_words import describe_width
from pelap.measure.macs import count_denoiser_macs
from pelap.pruning.width.width_criteria import WidthEvidence
from pelap.pruning.width.width_plan import NarrowDenoiser, WidthRequest, narrow
from tiny_models import DENOISERS

TARGET = 0.8


def pruned(pads_to: int, slow: float = 0.0) -> tuple[NarrowDenoiser, int, list[nn.Module]]:
    """A UNet of 24 and 48 features where widths cost as their next multiple of `pads_to`."""
    tiny: Any = DENOISERS["unet_2d"].build(6)
    config = {key: v for key, v in dict(tiny.config).items() if not key.startswith("_")}
    unet = type(tiny).from_config(config | {"block_out_channels": (24, 48)})
    timed: list[nn.Module] = []

    def cost(network: Any) -> int:
        first, second = (-(-width // pads_to) for width in network.config.block_out_channels)
        return first**2 + second**2

    def timer(network: nn.Module) -> float:
        timed.append(network)
        return slow + cost(network) / cost(unet)

    macs = count_denoiser_macs(unet)
    evidence = WidthEvidence(dict(unet.state_dict()))
    asked = WidthRequest(macs=TARGET, criterion="magnitude")
    return narrow(unet, asked, evidence, macs, lambda _: 1.0, None, timer), macs, timed


def test_where_macs_become_time_nothing_else_is_timed() -> None:
    found, _, timed = pruned(pads_to=4)
    assert timed == [found.denoiser]
    assert found.time is not None
    assert found.time.is_less
    assert found.time.nearest is None


def test_where_widths_are_padded_the_nearest_that_pads_less_is_named() -> None:
    found, macs, timed = pruned(pads_to=16)
    assert found.time is not None
    assert not found.time.is_less
    assert found.time.share > found.shape.macs / macs + 0.1
    nearest = found.time.nearest
    assert nearest is not None
    assert nearest.share <= nearest.shape.macs / macs + 0.1
    assert nearest.share <= found.time.share
    assert abs(nearest.shape.macs - found.shape.macs) <= 0.15 * macs
    assert 2 <= len(timed) <= 5


def test_where_a_step_only_waits_no_shape_is_named() -> None:
    found, _, timed = pruned(pads_to=4, slow=2.0)
    assert found.time is not None
    assert not found.time.is_less
    assert found.time.nearest is None
    assert len(timed) > 1


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ({"share": 0.75, "is_less": True, "nearest": None}, "0.75 of before"),
        (
            {
                "share": 0.95,
                "is_less": False,
                "nearest": {"widths": [192, 384, 2], "macs": 60, "share": 0.6},
            },
            "--denoiser-widths 192,384,2 takes 0.60 for 0.60 of the MACs",
        ),
        ({"share": 0.95, "is_less": False, "nearest": None}, "no shape near it does better"),
    ],
)
def test_the_terminal_says_so(time: Any, said: str) -> None:
    lines = describe_width(
        {
            "criterion": "taylor", "macs_before": 100, "macs": 70, "kept_score": 0.9, "config": {},
            "differences": {}, "features": {}, "time": time,
        }
    )  # fmt: skip
    assert any(said in line for line in lines)
