"""The shapes of a class: what they cost, which meet a target, and which of those is taken."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pelap.core.errors import ConfigError
from pelap.families.registry import example_inputs
from pelap.measure.macs import count_denoiser_macs
from pelap.models.kept_units import all_units
from pelap.pruning.pruned_units import after_width
from pelap.pruning.rebuild import weightless
from pelap.pruning.width.shape_search import MAX_SHAPES, NUM_CHEAPER, WINDOW, find_shapes
from pelap.pruning.width.shape_space import ShapeSpace, open_space
from pelap.pruning.width.shapes import make_shape
from pelap.pruning.width.width_choice import NarrowDenoiser
from pelap.pruning.width.width_criteria import WidthEvidence
from pelap.pruning.width.width_plan import Judge, WidthRequest, narrow
from tiny_models import DENOISERS, SIDE, randomize

DEEP: dict[str, dict[str, Any]] = {
    "unet_2d": {
        "block_out_channels": (16, 24, 32), "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "unet_condition": {
        "block_out_channels": (8, 16), "layers_per_block": (2, 3), "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 3),
    },
    "dit": {"num_attention_heads": 6, "num_layers": 6},
    "pixart": {"num_attention_heads": 6, "num_layers": 6, "cross_attention_dim": 48},
    "sd3": {"num_attention_heads": 6, "num_layers": 6, "caption_projection_dim": 48},
    "flux": {"num_attention_heads": 4, "num_layers": 3, "num_single_layers": 6},
    "chroma": {"num_attention_heads": 4},
}  # fmt: skip
"""Larger tiny models, whose shapes are many."""
TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


def build(name: str) -> Any:
    first: Any = DENOISERS[name].build(6)
    config = {key: v for key, v in dict(first.config).items() if not key.startswith("_")}
    return randomize(type(first).from_config(config | DEEP[name]))


@cache
def space_of(name: str) -> ShapeSpace:
    return open_space(build(name))


@cache
def before(name: str) -> int:
    return count_denoiser_macs(build(name))


@pytest.mark.parametrize("name", DEEP)
def test_estimates_are_counts(name: str) -> None:
    space = space_of(name)
    assert space.today == tuple(space.table[-1])
    assert space.count(len(space.table) - 1).macs == before(name)
    for row in np.random.default_rng(1).choice(len(space.table), 3):
        shape = space.count(row)
        assert shape.macs == count_denoiser_macs(weightless(space.denoiser, shape.updates))
        assert abs(space.estimates[row] - shape.macs) <= space.error + 1e-6 * shape.macs


@pytest.mark.parametrize("name", DEEP)
def test_targets_are_met_or_the_nearest_shapes_named(name: str) -> None:
    space = space_of(name)
    for target in TARGETS:
        if space.estimates.min() > target * before(name) + space.error:
            with pytest.raises(ConfigError, match="the narrowest has 0"):
                find_shapes(space, target, before(name))
            continue
        found = find_shapes(space, target, before(name))
        low, high = (target - WINDOW) * before(name), target * before(name)
        assert 1 <= len(found.shapes) <= MAX_SHAPES
        if found.nearest is None:
            assert all(low <= shape.macs <= high for shape in found.shapes)
            continue
        below, above = found.nearest
        assert found.shapes == [below]
        assert below.macs < low
        assert above is not None
        assert above.macs > high
        between = (space.estimates > below.macs + space.error + 1) & (
            space.estimates < above.macs - space.error - 1
        )
        assert not between.any()


@pytest.mark.parametrize("name", ["unet_2d", "unet_condition"])
def test_the_first_level_stays_wherever_it_can(name: str) -> None:
    space = space_of(name)
    for target in TARGETS:
        if space.estimates.min() > target * before(name):
            continue
        found = find_shapes(space, target, before(name))
        shares = space.estimates / before(name)
        within = (shares <= target) & (shares >= target - WINDOW)
        could_stay = (within & (space.table[:, 0] == space.today[0])).any()
        if could_stay:
            assert {shape.widths[0] for shape in found.shapes} == {space.today[0]}


def test_shapes_of_the_most_worth_come_first_and_then_others() -> None:
    space = space_of("sd3")
    worth = space.table[:, 1].astype(float)  # deep rather than wide
    found = find_shapes(space, 0.6, before("sd3"), worth)
    assert found.shapes[0].widths[1] == max(shape.widths[1] for shape in found.shapes)
    depths = [shape.widths[1] for shape in found.shapes]
    assert len(set(depths)) == len(depths)


def test_a_cheaper_shape_that_is_worth_more_comes_along() -> None:
    space = space_of("unet_2d")
    costs, target = space.estimates / before("unet_2d"), 0.6
    worth = np.where(costs < target - 0.1, 1.0, 0.0) * costs
    found = find_shapes(space, target, before("unet_2d"), worth)
    assert min(shape.macs for shape in found.shapes) > 0.57 * before("unet_2d")
    assert 1 <= len(found.cheaper) <= NUM_CHEAPER
    best = int(np.argmax(worth))
    assert found.cheaper[0].widths == tuple(space.table[best])
    assert all(shape.macs < (target - 0.1) * before("unet_2d") for shape in found.cheaper)
    assert not find_shapes(space, target, before("unet_2d"), costs).cheaper


def test_levels_as_wide_as_each_other_are_one_number() -> None:
    first: Any = DENOISERS["unet_2d"].build(6)
    config = {key: v for key, v in dict(first.config).items() if not key.startswith("_")}
    changes = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3,
    }  # fmt: skip
    space = open_space(type(first).from_config(config | changes))
    assert (space.table[:, 1] == space.table[:, 2]).all()
    assert (space.table[:, 0] != space.table[:, 1]).all()
    asked = []

    def lost(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        return 0.25

    left = space.interpolate(lost)
    assert left[-1] == 1.0
    assert left.min() == pytest.approx(0.75**2)
    assert all(widths[1] == widths[2] and (8 in widths[:1]) != (16 in widths) for widths in asked)


def narrowed(
    denoiser: nn.Module, request: WidthRequest, judge: Judge | None = None
) -> NarrowDenoiser:
    evidence = WidthEvidence(dict(denoiser.state_dict()))
    macs = count_denoiser_macs(denoiser)
    return narrow(denoiser, request, evidence, macs, lambda _: 1.0, judge)


def test_the_judge_chooses_among_shapes_that_meet_the_target() -> None:
    denoiser = build("unet_condition")
    errors: list[float] = []

    def judge(network: nn.Module) -> float:
        assert type(network) is type(denoiser)
        errors.append(1.0 + abs(len(errors) - 1))  # the second is best
        return errors[-1]

    found = narrowed(denoiser, WidthRequest(macs=0.7), judge)
    assert len(found.candidates) > 1
    assert found.candidates[0].widths == found.shape.widths
    assert found.candidates[0].error == min(errors)
    said = [candidate.error for candidate in found.candidates]
    assert said == sorted(errors)
    blind = narrowed(denoiser, WidthRequest(macs=0.7))
    kept = [candidate.kept_score for candidate in blind.candidates]
    assert blind.kept_score == kept[0] == max(kept)
    assert all(candidate.error is None for candidate in blind.candidates)


def test_a_target_that_no_shape_meets_takes_the_nearest_below() -> None:
    denoiser = build("chroma")
    found = narrowed(denoiser, WidthRequest(macs=0.9))
    assert found.nearest is not None
    below, above = found.nearest
    assert above is not None
    assert found.shape.widths == below.widths == (3,)
    assert above.widths == (4,)


def idle(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def test_idle_layers_of_a_unet_go_and_nothing_changes() -> None:
    unet = build("unet_condition")
    level, last = unet.down_blocks[1], unet.up_blocks[0]
    for block, number in ((level, 1), (last, 2)):
        idle(block.resnets[number].conv2)
        idle(block.attentions[number].proj_out)
    shortcut = last.resnets[2].conv_shortcut
    idle(shortcut)
    shortcut.weight[:, :16, 0, 0] = torch.eye(16)
    for attention in (*level.attentions, *last.attentions, *unet.mid_block.attentions):
        for layer in (block := attention.transformer_blocks[1]).attn1.to_out[0], block.ff.net[2]:
            idle(layer)
        idle(block.attn2.to_out[0])
    scores = {name: weight.square() for name, weight in unet.state_dict().items()}
    for name in scores:  # what is idle is worth nothing, whatever stands in front of it
        gone = ("down_blocks.1.%s.1.", "up_blocks.0.%s.2.")
        if name.startswith(tuple(one % part for one in gone for part in ("resnets", "attentions"))):
            scores[name] = torch.zeros_like(scores[name])
        if ".transformer_blocks.1." in name:
            scores[name] = torch.zeros_like(scores[name])
    evidence = WidthEvidence(dict(unet.state_dict()), slopes=scores)
    request = WidthRequest(widths=(8, 16, 2, 2, 2))
    found: Any = narrow(unet, request, evidence, 1, lambda _: 1.0)
    assert found.layers["down_blocks.1.attentions"] == [0, 2]
    assert found.layers["up_blocks.0.resnets"] == [0, 1, 3]
    assert found.layers["mid_block.attentions.0.transformer_blocks"] == [0, 2]
    assert found.denoiser.config["layers_per_block"] == 2
    assert found.denoiser.config["transformer_layers_per_block"] == (1, 2)
    layers = after_width(all_units("unet", unet), unet, found).layers
    moved = "up_blocks.0.attentions.{}.transformer_blocks.{}.attn1.to_q"
    assert layers[moved.format(3, 2)].name == moved.format(2, 1)
    assert layers[moved.format(2, 0)].name is None
    assert layers[moved.format(0, 1)].name is None
    inputs = example_inputs(unet, 2, SIDE)
    given, expected = found.denoiser(**inputs).sample, unet(**inputs).sample
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_numbers_of_layers_that_are_left_out_stay() -> None:
    unet = build("unet_2d")
    assert make_shape(unet, (16, 24, 16)).updates == {"block_out_channels": (16, 24, 16)}
    shape = make_shape(unet, (16, 24, 16, 1))
    assert shape.updates == {"block_out_channels": (16, 24, 16), "layers_per_block": 1}
    assert shape.macs == count_denoiser_macs(weightless(unet, shape.updates))
    with pytest.raises(ConfigError, match="give 3 to 4 numbers"):
        make_shape(unet, (16, 24))
    with pytest.raises(ConfigError, match="layers can be 1, 2"):
        make_shape(unet, (16, 24, 16, 3))
    flux = build("flux")
    assert make_shape(flux, (2, 3)).updates["num_single_layers"] == 6


def test_a_space_too_large_to_list_gets_coarser(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = space_of("sd3")
    monkeypatch.setattr("pelap.pruning.width.shape_space.MOST_SHAPES", 10)
    coarse = open_space(build("sd3"))
    assert 1 < len(coarse.table) <= 10
    assert coarse.today == fine.today == tuple(coarse.table[-1])
