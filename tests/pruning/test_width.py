"""Narrower denoisers: slices are the original with units masked, shapes meet their targets."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_pruning
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pelap.core.errors import ConfigError, ModelError
from pelap.families.layout import Kept, WidthLayout
from pelap.families.registry import example_inputs
from pelap.measure.macs import count_denoiser_macs
from pelap.models.loaded import LoadedModel
from pelap.pruning.narrowing import check_width
from pelap.pruning.rebuild import rebuild
from pelap.pruning.width.layers import take_layers
from pelap.pruning.width.refit import match_positions, refit_time
from pelap.pruning.width.unit_slicing import choose_units, mask_weights, slice_weights
from pelap.pruning.width.width_choice import NarrowDenoiser, find_layout
from pelap.pruning.width.width_criteria import WidthEvidence
from pelap.pruning.width.width_plan import WidthRequest, narrow
from tiny_models import DENOISERS, SIDE, randomize

TOLERANCE = 1e-5
CLASSES = [name for name in DENOISERS if name != "paper"]
DEPTH = (
    "layers_per_block", "transformer_layers_per_block", "num_layers", "num_single_layers",
)  # fmt: skip


def same_when_masked(
    original: nn.Module, narrower: nn.Module, layout: WidthLayout, kept: Kept, *inputs: Tensor
) -> None:
    """The slice gives what the original with the removed units masked gives."""
    randomize(original)
    narrower.load_state_dict(slice_weights(original.state_dict(), layout, kept))
    masked = mask_weights(copy.deepcopy(original), layout, kept)
    with torch.no_grad():
        found, expected = narrower.eval()(*inputs), masked.eval()(*inputs)
        untouched = original(*inputs)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert not torch.allclose(found, untouched, atol=1e-2)


def test_a_convolution_is_the_masked_one() -> None:
    def build(inner: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, inner, 3), nn.SiLU(), nn.Conv2d(inner, 5, 3))

    layout = WidthLayout()
    original = build(8)
    inner = layout.add("inner", 8)
    layout.layer(original[0], "0", None, inner)  # type: ignore[index]
    layout.layer(original[2], "2", inner, None)  # type: ignore[index]
    kept = {"inner": torch.tensor([1, 4, 6])}
    same_when_masked(original, build(3), layout, kept, torch.randn(2, 3, 8, 8))


def test_a_linear_layer_behind_a_concatenation_is_the_masked_one() -> None:
    class Joined(nn.Module):
        def __init__(self, left: int, right: int):
            super().__init__()
            self.left, self.right = nn.Linear(4, left), nn.Linear(4, right)
            self.last = nn.Linear(left + right, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.cat([self.left(x), self.right(x)], dim=-1))

    layout, original = WidthLayout(), Joined(6, 4)
    left, right = layout.add("left", 6), layout.add("right", 4)
    layout.layer(original.left, "left", None, left)
    layout.layer(original.right, "right", None, right)
    layout.layer(original.last, "last", left + right, None)
    kept = {"left": torch.tensor([0, 5]), "right": torch.tensor([1, 2, 3])}
    same_when_masked(original, Joined(2, 3), layout, kept, torch.randn(5, 4))


@pytest.mark.parametrize("bias", [True, False])
def test_attention_heads_are_the_masked_ones(bias: bool) -> None:
    original = Attention(8, heads=4, dim_head=3, bias=bias)
    layout = WidthLayout()
    heads = layout.add("heads", 12, unit=3)
    for name in ("to_q", "to_k", "to_v"):
        layout.layer(original.get_submodule(name), name, None, heads)
    layout.layer(original.to_out[0], "to_out.0", heads, None)  # type: ignore[index]
    kept = {"heads": torch.tensor([0, 3])}
    narrower = Attention(8, heads=2, dim_head=3, bias=bias)
    same_when_masked(original, narrower, layout, kept, torch.randn(2, 7, 8))


def test_a_narrower_head_divides_by_the_root_of_its_old_width() -> None:
    original = Attention(8, heads=1, dim_head=8)
    layout = WidthLayout()
    queries, values = layout.add("queries", 8), layout.add("values", 8)
    layout.layer(original.to_q, "to_q", None, queries)
    layout.layer(original.to_k, "to_k", None, queries)
    layout.layer(original.to_v, "to_v", None, values)
    layout.layer(original.to_out[0], "to_out.0", values, None)  # type: ignore[index]
    layout.rescaled["to_q.weight"] = "queries"
    kept = {"queries": torch.tensor([1, 2, 5, 7]), "values": torch.tensor([0, 1, 6, 7])}
    narrower = Attention(8, heads=1, dim_head=4)
    same_when_masked(original, narrower, layout, kept, torch.randn(2, 7, 8))


@pytest.mark.parametrize("activation", ["geglu", "gelu-approximate"])
def test_a_feed_forward_is_the_masked_one(activation: str) -> None:
    original = FeedForward(6, inner_dim=10, activation_fn=activation)
    layout = WidthLayout()
    hidden = layout.add("hidden", 10)
    first: Any = original.net[0].proj
    layout.layer(first, "net.0.proj", None, hidden * (first.out_features // 10))
    layout.layer(original.net[2], "net.2", hidden, None)
    kept = {"hidden": torch.tensor([0, 2, 3, 9])}
    narrower = FeedForward(6, inner_dim=4, activation_fn=activation)
    same_when_masked(original, narrower, layout, kept, torch.randn(2, 5, 6))


def test_a_group_norm_that_loses_whole_groups_is_the_masked_one() -> None:
    def build(width: int, groups: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3), nn.GroupNorm(groups, width), nn.Conv2d(width, 2, 1)
        )

    original, layout = build(12, 4), WidthLayout()
    inner = layout.add("inner", 12, unit=3)
    layout.layer(original[0], "0", None, inner)  # type: ignore[index]
    layout.norm("1", inner)
    layout.layer(original[2], "2", inner, None)  # type: ignore[index]
    kept = {"inner": torch.tensor([0, 2])}
    same_when_masked(original, build(6, 2), layout, kept, torch.randn(2, 3, 8, 8))


def tiny(name: str) -> Any:
    return randomize(DENOISERS[name].build(6))


def narrowed(denoiser: nn.Module, request: WidthRequest | None = None) -> NarrowDenoiser:
    evidence = WidthEvidence(dict(denoiser.state_dict()), seed=request.seed if request else 0)
    asked = request or WidthRequest(macs=0.6)
    return narrow(denoiser, asked, evidence, count_denoiser_macs(denoiser), lambda _: 1.0)


def without_statistics(network: Any) -> Any:
    """Norms that scale and shift only: what is left of them when nothing is averaged."""
    for module in network.modules():
        norm: Any = module
        if isinstance(module, nn.GroupNorm):
            norm.forward = lambda x, m=norm: x * _channels(m.weight, x) + _channels(m.bias, x)
        elif isinstance(module, nn.LayerNorm):
            norm.forward = lambda x, m=norm: x if m.weight is None else x * m.weight + m.bias
        elif type(module).__name__ == "RMSNorm":
            norm.forward = lambda x, m=norm: x if m.weight is None else x * m.weight
    return network


def _channels(weight: Tensor, x: Tensor) -> Tensor:
    return weight.view(-1, *[1] * (x.dim() - 2))


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one head": ("unet_2d", {"attention_head_dim": None}),
    "scale and shift": ("unet_2d", {"resnet_time_scale_shift": "scale_shift"}),
    "resnets that sample": ("unet_2d", {"downsample_type": "resnet", "upsample_type": "resnet"}),
    "no attention in the middle": ("unet_2d", {"add_attention": False, "layers_per_block": 2}),
    "classes": ("unet_2d", {"num_class_embeds": 3}),
    "other groups in the middle": ("unet_2d", {"attn_norm_num_groups": 8}),
    "a number for the class": ("unet_condition", {"class_embed_type": "timestep"}),
    "an embedded class": ("unet_condition", {
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": 7,
    }),
    "an embedding for the class": ("unet_2d", {"class_embed_type": "identity"}),
    "linear projections": ("unet_condition", {
        "use_linear_projection": True, "transformer_layers_per_block": 2,
        "attention_head_dim": (2, 4),
    }),
    "cross attention only": ("unet_condition", {"only_cross_attention": True}),
    "double attention": ("sd3", {"dual_attention_layers": (0,), "qk_norm": "rms_norm"}),
    "guidance": ("flux", {"guidance_embeds": True, "num_single_layers": 2}),
    "normed queries": ("sana", {"qk_norm": "rms_norm_across_heads"}),
}  # fmt: skip


def variant(name: str) -> Any:
    base, changes = VARIANTS[name]
    first: Any = DENOISERS[base].build(6)
    config = {key: v for key, v in dict(first.config).items() if not key.startswith("_")}
    return randomize(type(first).from_config(config | changes))


@pytest.mark.parametrize("name", [*CLASSES, *VARIANTS])
def test_a_whole_network_differs_by_statistics_and_embeddings_only(name: str) -> None:
    original = variant(name) if name in VARIANTS else tiny(name)
    found = narrowed(original, WidthRequest(macs=0.8))
    narrower, layout = found.denoiser, found.layout
    masked = mask_weights(_shallow(original, found), layout, found.kept)
    _share_embeddings(original, masked, narrower, found)
    inputs = example_inputs(original, 2, SIDE)
    with torch.no_grad():
        for network in (masked, narrower):
            without_statistics(network)
        expected, given = masked(**inputs).sample, narrower(**inputs).sample
    assert given.std() > 0.01
    torch.testing.assert_close(given, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


def _shallow(original: Any, found: NarrowDenoiser) -> Any:
    """A copy of the original, as wide as before, with the kept layers alone."""
    depth = {name: found.shape.updates[name] for name in DEPTH if name in found.shape.updates}
    state = take_layers(copy.deepcopy(original.state_dict()), found.layers)
    return rebuild(original, depth, state)


def _share_embeddings(original: Any, masked: Any, narrower: Any, found: NarrowDenoiser) -> None:
    """Give the narrower network the time or position embedding of the original."""
    if hasattr(original, "time_embedding"):
        steps = original.time_proj(torch.full((2,), 500)).to(torch.float32)
        given = original.time_embedding(steps)
        masked.time_embedding.forward = narrower.time_embedding.forward = lambda *_: given
        if original.config.get("class_embed_type") == "timestep":
            numbers = original.time_proj(torch.zeros(2)).to(torch.float32)
            said = original.class_embedding(numbers)
            masked.class_embedding.forward = narrower.class_embedding.forward = lambda *_: said
    if "position embedding" in found.differences:
        stream = found.kept["stream"]
        narrower.pos_embed.pos_embed = original.pos_embed.pos_embed[..., stream]
        narrower.pos_embed.proj.bias.data = original.pos_embed.proj.bias.data[stream]


@pytest.mark.parametrize("name", CLASSES)
def test_every_weight_lies_in_the_layout_or_keeps_its_shape(name: str) -> None:
    original = tiny(name)
    found = narrowed(original)
    before, after = original.state_dict(), found.denoiser.state_dict()
    for key, weight in after.items():
        if key not in found.layout.axes and key != "time_embedding.linear_1.weight":
            assert weight.shape == before[key].shape
    assert type(found.denoiser) is type(original)
    assert found.shape.macs == count_denoiser_macs(found.denoiser)
    assert found.shape.macs <= 0.6 * count_denoiser_macs(original)
    for block, (teacher, features) in found.features.items():
        assert original.get_submodule(teacher) is not None
        assert found.denoiser.get_submodule(block) is not None
        assert len(set(features)) == len(features)


def test_groups_are_those_of_an_independent_tracer() -> None:
    unet = DENOISERS["unet_2d"].build(6)
    layout = find_layout(unet)
    inputs = example_inputs(unet, 1, SIDE)
    graph = torch_pruning.DependencyGraph().build_dependency(
        unet, example_inputs=inputs, forward_fn=lambda m, _: m(**inputs).sample
    )
    for name, path in {
        "conv_in": "conv_in",
        "down_blocks.1.resnets.0.inner": "down_blocks.1.resnets.0.conv1",
        "up_blocks.0.resnets.1.inner": "up_blocks.0.resnets.1.conv1",
        "down_blocks.0.downsamplers.0": "down_blocks.0.downsamplers.0.conv",
        "up_blocks.0.upsamplers.0": "up_blocks.0.upsamplers.0.conv",
    }.items():
        layer = unet.get_submodule(path)
        group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, [1])
        theirs = {
            (dependency.target.name.split(" ")[0], index)
            for dependency, indices in group
            if not dependency.target.name.startswith("_")
            for index in indices
        }
        assert ours_at(layout, name, 1) == theirs


def ours_at(layout: WidthLayout, group: str, unit: int) -> set[tuple[str, int]]:
    """Layers and places on their axes where a unit lies."""
    found = set()
    for weight, axes in layout.axes.items():
        for stream in axes.values():
            offset = 0
            for part in stream:
                if part == group:
                    found.add((weight.rpartition(".")[0], offset + unit))
                offset += layout.groups[part].size
    return found


def test_of_each_norm_group_as_many_channels_stay() -> None:
    original = tiny("unet_2d")
    found = narrowed(original, WidthRequest(widths=(8, 12)))
    for name, group in found.layout.groups.items():
        if group.parts > 1 and group.size == 16:
            counts = torch.bincount(found.kept[name] // (group.size // group.parts))
            assert counts.tolist() == [3] * 4


def test_the_fastest_shape_that_keeps_most_is_taken() -> None:
    denoiser = tiny("unet_2d")
    evidence = WidthEvidence(dict(denoiser.state_dict()))
    macs = count_denoiser_macs(denoiser)

    def timer(network: nn.Module) -> float:
        return count_denoiser_macs(network) / macs

    quick = narrow(denoiser, WidthRequest(latency=0.5), evidence, macs, timer)
    slow = narrow(denoiser, WidthRequest(latency=0.9), evidence, macs, timer)
    assert quick.shape.macs <= 0.5 * macs < slow.shape.macs <= 0.9 * macs
    same = narrow(denoiser, WidthRequest(latency=1.0), evidence, macs, timer)
    assert same.shape.widths == (8, 16)
    assert quick.kept_score < slow.kept_score
    with pytest.raises(ConfigError, match="the fastest shape tried takes"):
        narrow(denoiser, WidthRequest(latency=0.01), evidence, macs, timer)


def test_what_does_nothing_goes_first() -> None:
    unet = tiny("unet_2d")
    idle = [0, 5, 9, 14]  # one of each norm group
    name = "down_blocks.1.resnets.0.inner"
    layout = find_layout(unet)
    busy = {group: torch.arange(one.num_units) for group, one in layout.groups.items()}
    busy[name] = torch.tensor(sorted(set(range(16)) - set(idle)))
    mask_weights(unet, layout, busy)
    scores = {name: weight.square() for name, weight in unet.state_dict().items()}
    slopes = {name: score * (name.count("down_blocks.1") + 1) for name, score in scores.items()}
    for criterion in ("magnitude", "taylor", "diff_pruning"):
        evidence = WidthEvidence(dict(unet.state_dict()), slopes, slopes)
        request = WidthRequest(widths=(8, 12), criterion=criterion)
        found = narrow(unet, request, evidence, 1, lambda _: 1.0)
        assert torch.equal(found.kept[name], busy[name]), criterion


def test_random_units_follow_the_seed() -> None:
    unet = tiny("unet_2d")
    drawn = [
        narrowed(unet, WidthRequest(widths=(4, 12), criterion="random", seed=seed)).kept
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert any(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


def test_first_and_last_layers_stay() -> None:
    config = {**dict(tiny("sd3").config), "num_layers": 5}
    kind: Any = type(DENOISERS["sd3"].build(6))
    sd3: Any = kind.from_config(
        {name: value for name, value in config.items() if not name.startswith("_")}
    )
    randomize(sd3)
    with torch.no_grad():
        for block in (0, 2, 4):
            for weight in sd3.transformer_blocks[block].parameters():
                weight *= 1e-3
    found = narrowed(sd3, WidthRequest(widths=(2, 4)))
    blocks = [teacher for teacher, _ in found.features.values()]
    assert blocks == [f"transformer_blocks.{number}" for number in (0, 1, 3, 4)]
    weight = "transformer_blocks.2.attn.to_q.weight"
    original = sd3.get_parameter("transformer_blocks.3.attn.to_q.weight")
    assert torch.equal(found.denoiser.get_parameter(weight), original)


def test_layers_with_dual_attention_are_numbered_anew() -> None:
    first: Any = DENOISERS["sd3"].build(6)
    config = {**dict(first.config), "num_layers": 4, "dual_attention_layers": (1, 2)}
    sd3: Any = randomize(type(first).from_config(
        {name: value for name, value in config.items() if not name.startswith("_")}
    ))  # fmt: skip
    with torch.no_grad():
        for weight in sd3.transformer_blocks[1].parameters():
            weight *= 1e-3
    found: Any = narrowed(sd3, WidthRequest(widths=(2, 3)))
    assert tuple(found.denoiser.config["dual_attention_layers"]) == (1,)
    with torch.no_grad():
        assert found.denoiser(**example_inputs(found.denoiser, 1, SIDE)).sample.isfinite().all()


def test_the_time_embedding_is_fitted_by_least_squares() -> None:
    unet = tiny("unet_2d")
    found = narrowed(unet, WidthRequest(widths=(4, 16)))
    narrower: Any = found.denoiser
    unet.requires_grad_(False)
    narrower.requires_grad_(False)
    steps = torch.arange(1000)
    given = unet.time_embedding.linear_1(unet.time_proj(steps))
    fitted = narrower.time_embedding.linear_1(narrower.time_proj(steps))
    error = (fitted - given).square().mean()
    spread = (given - given.mean(dim=0)).square().mean()
    assert float((error / spread).sqrt()) == pytest.approx(
        found.differences["time embedding"], rel=1e-3
    )
    layer = narrower.time_embedding.linear_1
    for change in (0.9, 1.1):
        worse = narrower.time_proj(steps) @ (change * layer.weight).T + layer.bias
        assert (worse - given).square().mean() > error
    assert refit_time(unet, unet, dict(unet.state_dict())) == 0.0


@settings(max_examples=20)
@given(st.permutations(range(6)))
def test_positions_are_matched(order: list[int]) -> None:
    table = torch.randn(20, 9, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([0, 2, 3, 5, 7, 8])
    new = table[:, kept[torch.tensor(order)]] + 3.0
    found, difference = match_positions(table, new, kept)
    assert found.tolist() == kept[torch.tensor(order)].tolist()
    assert difference < 1e-6


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("unet_2d", lambda c: {**c, "down_block_types": ("SkipDownBlock2D", "AttnDownBlock2D"),
                               "up_block_types": ("AttnUpBlock2D", "SkipUpBlock2D")}, "SkipDown"),
        ("unet_2d", lambda c: {**c, "time_embedding_type": "fourier"}, "positional"),
        ("unet_condition", lambda c: {
            **c, "down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D")}, "SimpleCrossAttnDown"),
        ("pixart", lambda c: {**c, "use_additional_conditions": True, "attention_head_dim": 12,
                              "cross_attention_dim": 24}, "use_additional_conditions"),
    ],
)  # fmt: skip
def test_variants_that_are_not_known_are_refused(
    name: str, change: Callable[[dict[str, Any]], dict[str, Any]], says: str
) -> None:
    first: Any = DENOISERS[name].build(6)
    config = {key: v for key, v in dict(first.config).items() if not key.startswith("_")}
    model = LoadedModel("small", nn.Identity(), type(first).from_config(change(config)))
    with pytest.raises(ModelError, match=says):
        check_width(model, WidthRequest(macs=0.85), has_pictures=False)


def test_a_target_that_cannot_be_met_is_refused() -> None:
    unet = tiny("unet_2d")
    with pytest.raises(ConfigError, match="the narrowest has 0"):
        narrowed(unet, WidthRequest(macs=0.01))
    with pytest.raises(ConfigError, match="level 1 can be 4, 8, 12, 16"):
        narrowed(unet, WidthRequest(widths=(8, 13)))
    with pytest.raises(ConfigError, match="must not become so"):
        narrowed(unet, WidthRequest(widths=(8, 8)))
    with pytest.raises(ConfigError, match="give 2 numbers"):
        narrowed(unet, WidthRequest(widths=(8,)))
    with pytest.raises(ModelError, match="PaperUNet"):
        narrowed(tiny("paper"))


def test_units_are_chosen_by_their_scores() -> None:
    old, new = WidthLayout(), WidthLayout()
    old.add("plain", 6)
    new.add("plain", 3)
    old.add("heads", 8, unit=2)
    new.add("heads", 4, unit=2)
    scores = {"plain": torch.tensor([5.0, 1, 4, 0, 3, 2]), "heads": torch.tensor([0.0, 3, 1, 2])}
    kept = choose_units(scores, old, new)
    assert kept["plain"].tolist() == [0, 2, 4]
    assert old.features_of(("heads",), kept).tolist() == [2, 3, 6, 7]
    with pytest.raises(ModelError, match="cannot be made of 6 units"):
        choose_units(scores, new, old)
