"""One shape of a denoiser made real: which layers and units it keeps, and what then differs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pelap.core.errors import ModelError
from pelap.core.network import Network, as_network
from pelap.families.family import Layers, Widths
from pelap.families.layout import Kept, WidthLayout
from pelap.families.ports import State
from pelap.families.registry import config_of, denoiser_family
from pelap.families.transformer import STREAM
from pelap.pruning.rebuild import empty, rebuild, weightless
from pelap.pruning.width.layers import choose_layers, take_layers
from pelap.pruning.width.refit import match_positions, refit_time
from pelap.pruning.width.shapes import Shape
from pelap.pruning.width.step_time import StepTime
from pelap.pruning.width.unit_slicing import choose_units, slice_weights
from pelap.pruning.width.width_criteria import WidthScores


@dataclass(frozen=True)
class Candidate:
    """A shape that was compared with others."""

    widths: Widths
    macs: int
    kept_score: float
    error: float | None
    """What the judge said; None without one."""


@dataclass(frozen=True)
class NarrowDenoiser:
    """What comes out."""

    denoiser: nn.Module
    shape: Shape
    criterion: str
    kept_score: float
    """Share of the sum of the criterion's scores over all weights that was kept."""
    differences: dict[str, float]
    """What a narrower network of this class computes differently, relative to its size."""
    features: dict[str, tuple[str, list[int]]]
    """By block: the block of the original that it was, and the features kept of what leaves it."""
    layers: Layers
    """Those of the original that stay."""
    layout: WidthLayout
    """Of the original, without the layers that went."""
    kept: Kept
    candidates: tuple[Candidate, ...] = ()
    """What it was chosen from, best first, itself among them; empty where there was no choice."""
    nearest: tuple[Shape, Shape | None] | None = None
    """Where no shape meets the target: the nearest below, which is taken, and above."""
    below_target: bool = False
    """Whether it costs less than every shape at the target, and was preferred to them."""
    time: StepTime | None = None
    """Where it was timed: what a step takes here."""


def find_layout(denoiser: nn.Module) -> WidthLayout:
    """The groups of a denoiser.

    Raises:
        ModelError: If this class, or this variant of it, is not supported.
    """
    return denoiser_family(denoiser).layout(as_network(denoiser))


@dataclass(frozen=True)
class Choice:
    """A shape with the layers and units that it would keep."""

    shape: Shape
    layers: Layers
    layout: WidthLayout
    """Of the network with these layers, as wide as before."""
    kept: Kept
    kept_score: float


def choose(denoiser: nn.Module, shape: Shape, scores: WidthScores) -> Choice:
    """The layers and units of a shape with the highest scores.

    Raises:
        ModelError: If the class is not supported.
    """
    family = denoiser_family(denoiser)
    lists = family.layer_lists(as_network(denoiser), shape.updates)
    layers = choose_layers(scores.of_layers(lists), lists)
    depth = family.depth_updates(config_of(denoiser), shape.updates, layers)
    shape = replace(shape, updates=shape.updates | depth)
    layout = find_layout(weightless(denoiser, depth))
    shallow = scores.of_kept_layers(layers)
    narrow_layout = find_layout(weightless(denoiser, shape.updates))
    kept = choose_units(shallow.of_units(layout), layout, narrow_layout)
    held = replace(shallow, weights=slice_weights(shallow.weights, layout, kept))
    share = sum(held.sums.values()) / max(sum(scores.sums.values()), 1e-300)
    return Choice(shape, layers, layout, kept, share)


@torch.no_grad()
def build(denoiser: nn.Module, choice: Choice, criterion: str) -> NarrowDenoiser:
    """The network with these layers and units, and what no weight can say refitted.

    Raises:
        ModelError: If it has weights that its layout does not know.
    """
    layout, kept = choice.layout, dict(choice.kept)
    new: nn.Module = empty(denoiser, choice.shape.updates)
    state = take_layers(dict(denoiser.state_dict()), choice.layers)
    differences: dict[str, float] = {}
    moved = _moved_positions(denoiser, new, state)
    if moved is not None:
        old, narrow_table = moved
        kept[STREAM], difference = match_positions(old, narrow_table, kept[STREAM])
        differences["position embedding"] = difference
        state = slice_weights(state, layout, kept)
        shift = (old[:, kept[STREAM]] - narrow_table).mean(dim=0)
        bias = state["pos_embed.proj.bias"]
        state["pos_embed.proj.bias"] = bias + shift.to(bias)
    else:
        state = slice_weights(state, layout, kept)
    if hasattr(denoiser, "time_proj"):
        differences["time embedding"] = refit_time(as_network(denoiser), new, state)
    _check_fit(new, state)
    narrower = rebuild(denoiser, choice.shape.updates, state)
    return NarrowDenoiser(
        narrower, choice.shape, criterion, choice.kept_score,
        {name: value for name, value in differences.items() if value > 0}, _features(choice, kept),
        choice.layers, layout, kept,
    )  # fmt: skip


def _check_fit(new: nn.Module, state: State) -> None:
    """Refuse what the layout does not know, before anything is made of it."""
    wanted = {name: weight.shape for name, weight in new.state_dict().items()}
    for name in wanted.keys() | state.keys():
        if name not in wanted or name not in state or state[name].shape != wanted[name]:
            raise ModelError(
                f"The width of this {type(new).__name__} cannot be pruned: {name} is not known in "
                "this variant of the class."
            )


def _moved_positions(
    denoiser: nn.Module, new: Network, state: State
) -> tuple[Tensor, Tensor] | None:
    """Both tables (positions, D) and (positions, K) where the class computes them from its width;
    None where they are weights, or there are none, or nothing changed."""
    table = getattr(getattr(denoiser, "pos_embed", None), "pos_embed", None)
    if table is None or "pos_embed.pos_embed" in state:
        return None
    narrow_table = new.pos_embed.pos_embed
    return None if table.shape == narrow_table.shape else (table[0].cpu(), narrow_table[0])


def _features(choice: Choice, kept: Kept) -> dict[str, tuple[str, list[int]]]:
    found = {}
    for name, stream in choice.layout.features.items():
        owner, _, number = name.rpartition(".")
        original = name
        if owner in choice.layers:
            original = f"{owner}.{choice.layers[owner][int(number)]}"
        found[name] = (original, choice.layout.features_of(stream, kept).tolist())
    return found
