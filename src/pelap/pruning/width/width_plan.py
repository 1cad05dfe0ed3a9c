"""From a target to a narrower denoiser: which shape, which units, and what then differs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pelap.core.errors import ConfigError, ModelError
from pelap.families.family import Layers, Widths
from pelap.families.layout import Kept, WidthLayout
from pelap.families.ports import State
from pelap.families.registry import config_of, denoiser_family
from pelap.families.transformer import STREAM
from pelap.pruning.rebuild import empty, rebuild, weightless
from pelap.pruning.width.layers import choose_layers, take_layers
from pelap.pruning.width.refit import match_positions, refit_time
from pelap.pruning.width.shapes import Shape, find_shapes, make_shape
from pelap.pruning.width.unit_slicing import choose_units, slice_weights
from pelap.pruning.width.width_criteria import WIDTH_CRITERIA, WidthEvidence, WidthScores

LADDER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the MACs at which shapes are timed."""
NUM_TIMED = 3
"""Shapes timed at each of them."""


@dataclass(frozen=True)
class WidthRequest:
    """What the user asked for: at least one of `macs`, `latency` and `widths`."""

    macs: float | None = None
    """Most of a step's multiply-accumulates, as a share of what it cost before."""
    latency: float | None = None
    """Most of a step's time on this machine, as a share of what it took before."""
    widths: Widths | None = None
    criterion: str | None = None
    """None takes taylor where the denoiser can be run, else magnitude."""
    seed: int = 0
    """Of the criterion `random`."""

    def is_asked(self) -> bool:
        """Whether anything was said of the denoiser's width."""
        return any(v is not None for v in (self.macs, self.latency, self.widths, self.criterion))

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: Names the option.
        """
        if self.macs is None and self.latency is None and self.widths is None:
            raise ConfigError(
                "--denoiser-criterion: give --denoiser-macs, --denoiser-latency or "
                "--denoiser-widths with it."
            )
        for name, value in (("macs", self.macs), ("latency", self.latency)):
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"--denoiser-{name} is {value:g}: give a share in (0, 1].")
        if self.widths is not None and (self.macs is not None or self.latency is not None):
            raise ConfigError("--denoiser-widths says it all: leave the targets out.")
        if self.criterion is not None and self.criterion not in WIDTH_CRITERIA:
            raise ConfigError(
                f"--denoiser-criterion is {self.criterion}: known are {', '.join(WIDTH_CRITERIA)}."
            )


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


def find_layout(denoiser: Any) -> WidthLayout:
    """The groups of a denoiser.

    Raises:
        ModelError: If this class, or this variant of it, is not supported.
    """
    return denoiser_family(denoiser).layout(denoiser)


def _find_criterion(request: WidthRequest, evidence: WidthEvidence) -> tuple[str, WidthScores]:
    """The scores by the criterion that was asked for, or by the best one there is.

    Raises:
        ConfigError: If it cannot be computed.
    """
    default = "magnitude" if evidence.slopes is None else "taylor"
    name = request.criterion or default
    scores = WIDTH_CRITERIA[name].find(evidence)
    if scores is None:
        raise ConfigError(
            f"--denoiser-criterion {name}: {WIDTH_CRITERIA[name].missing} Give magnitude."
        )
    return name, scores


@torch.no_grad()
def narrow(
    denoiser: nn.Module,
    request: WidthRequest,
    evidence: WidthEvidence,
    macs_before: int,
    measure_latency: Callable[[nn.Module], float],
) -> NarrowDenoiser:
    """The narrower denoiser that meets the targets and keeps most of the criterion's scores.

    Args:
        denoiser: Left as it is.
        request: What is wanted.
        evidence: Of this denoiser.
        macs_before: What the shares are of: a step before anything was removed.
        measure_latency: Time of a step of a network over that of the original.

    Raises:
        ConfigError: If the request cannot be met.
        ModelError: If the class is not supported.
    """
    name, scores = _find_criterion(request, evidence)
    if request.latency is not None:
        return _fast_enough(denoiser, request, (name, scores), macs_before, measure_latency)
    if request.widths is not None:
        shapes = [make_shape(denoiser, request.widths)]
    else:
        shapes = find_shapes(denoiser, (request.macs or 1.0) * macs_before)
    return _build(denoiser, _ranked(denoiser, shapes, scores)[0], name)


def _fast_enough(
    denoiser: nn.Module,
    request: WidthRequest,
    criterion: tuple[str, WidthScores],
    macs_before: int,
    measure_latency: Callable[[nn.Module], float],
) -> NarrowDenoiser:
    """Time shapes with fewer and fewer MACs, those that keep most first, until one is fast."""
    name, scores = criterion
    assert request.latency is not None
    fastest = 1.0
    for share in LADDER:
        try:
            shapes = find_shapes(denoiser, share * (request.macs or 1.0) * macs_before)
        except ConfigError:  # nothing is that narrow
            break
        for choice in _ranked(denoiser, shapes, scores)[:NUM_TIMED]:
            found = _build(denoiser, choice, name)
            ratio = measure_latency(found.denoiser)
            if ratio <= request.latency:
                return found
            fastest = min(fastest, ratio)
    raise ConfigError(
        f"--denoiser-latency is {request.latency:g}: the fastest shape tried takes {fastest:.2f} "
        "of the time."
    )


def _ranked(denoiser: nn.Module, shapes: list[Shape], scores: WidthScores) -> list["_Choice"]:
    choices = [_choose(denoiser, shape, scores) for shape in shapes]
    return sorted(choices, key=lambda choice: choice.kept_score, reverse=True)


@dataclass(frozen=True)
class _Choice:
    """One shape with the layers and units that it would keep."""

    shape: Shape
    layers: Layers
    layout: WidthLayout
    """Of the network with these layers, as wide as before."""
    kept: Kept
    kept_score: float


def _choose(denoiser: nn.Module, shape: Shape, scores: WidthScores) -> _Choice:
    family = denoiser_family(denoiser)
    layers = choose_layers(scores.of_layers(denoiser), family.depth, shape.updates)
    depth = family.depth_updates(config_of(denoiser), shape.updates, layers)
    shape = replace(shape, updates=shape.updates | depth)
    layout = find_layout(weightless(denoiser, depth))
    shallow = scores.of_kept_layers(layers)
    narrow_layout = find_layout(weightless(denoiser, shape.updates))
    kept = choose_units(shallow.of_units(layout), layout, narrow_layout)
    held = slice_weights(shallow.weights, layout, kept)
    return _Choice(shape, layers, layout, kept, _sum(held) / max(_sum(scores.weights), 1e-300))


def _sum(scores: State) -> float:
    return sum(float(score.double().sum()) for score in scores.values())


def _build(denoiser: Any, choice: _Choice, criterion: str) -> NarrowDenoiser:
    layout, kept = choice.layout, dict(choice.kept)
    new: Any = empty(denoiser, choice.shape.updates)
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
        differences["time embedding"] = refit_time(denoiser, new, state)
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


def _moved_positions(denoiser: Any, new: Any, state: State) -> tuple[Tensor, Tensor] | None:
    """Both tables (positions, D) and (positions, K) where the class computes them from its width;
    None where they are weights, or there are none, or nothing changed."""
    table = getattr(getattr(denoiser, "pos_embed", None), "pos_embed", None)
    if table is None or "pos_embed.pos_embed" in state:
        return None
    narrow_table = new.pos_embed.pos_embed
    return None if table.shape == narrow_table.shape else (table[0].cpu(), narrow_table[0])


def _features(choice: _Choice, kept: Kept) -> dict[str, tuple[str, list[int]]]:
    found = {}
    for name, stream in choice.layout.features.items():
        owner, _, number = name.rpartition(".")
        original = name
        if owner in choice.layers:
            original = f"{owner}.{choice.layers[owner][int(number)]}"
        found[name] = (original, choice.layout.features_of(stream, kept).tolist())
    return found
