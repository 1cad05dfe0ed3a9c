"""Keep some units of every group: the weights of a narrower network of the same class."""

import torch
from torch import Tensor, nn

from pelap.core.errors import ModelError
from pelap.families.layout import Group, Kept, WidthLayout
from pelap.families.ports import State


def choose_units(scores: dict[str, Tensor], old: WidthLayout, new: WidthLayout) -> Kept:
    """The units with the highest scores, as many in each group as the narrower network has.

    Where a group is normed in parts, each part loses as many, if the number allows.

    Args:
        scores: One a unit, (num_units,), by group.
        old: Layout of the network.
        new: Layout of the narrower one; groups have the same names.

    Raises:
        ModelError: If it is not narrower everywhere.
    """
    kept: Kept = {}
    for name, group in old.groups.items():
        wanted = new.groups[name].num_units
        if wanted > group.num_units or new.groups[name].unit != group.unit:
            raise ModelError(f"{name} cannot be made of {wanted} units: it has {group.num_units}.")
        kept[name] = _best(scores[name], wanted, group)
    return kept


def _best(scores: Tensor, wanted: int, group: Group) -> Tensor:
    parts = group.parts
    if group.num_units % parts or wanted % parts:
        parts = 1
    ranked = scores.view(parts, -1).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(parts)[:, None] * (group.num_units // parts)
    return (ranked[:, : wanted // parts] + first).flatten().sort().values


def slice_weights(state: State, layout: WidthLayout, kept: Kept) -> State:
    """The weights at the kept units; weights that are in no group are shared."""
    return {name: _slice_weight(name, weight, layout, kept) for name, weight in state.items()}


def _slice_weight(name: str, weight: Tensor, layout: WidthLayout, kept: Kept) -> Tensor:
    """One weight at the kept units."""
    for axis, stream in layout.axes.get(name, {}).items():
        weight = weight.index_select(axis, layout.features_of(stream, kept).to(weight.device))
    return weight * layout.scale(name, kept) if name in layout.rescaled else weight


@torch.no_grad()
def mask_weights(network: nn.Module, layout: WidthLayout, kept: Kept) -> nn.Module:
    """Set what makes the removed units to zero in place: what a slice is compared with.

    Weights and biases are zero for removed outputs and inputs, so that removed features carry
    nothing, but are still there, e.g. in the statistics of a norm.
    """
    for name, weight in network.named_parameters():
        for axis, stream in layout.axes.get(name, {}).items():
            gone = torch.ones(weight.shape[axis], dtype=torch.bool)
            gone[layout.features_of(stream, kept)] = False
            weight.index_fill_(axis, gone.nonzero().flatten(), 0)
    return network


def score_units(scores: State, layout: WidthLayout) -> dict[str, Tensor]:
    """Sum the scores of single weights over all that a unit takes part in, (num_units,) each."""
    found = {
        name: torch.zeros(group.num_units, dtype=torch.float64)
        for name, group in layout.groups.items()
    }
    for name, weight in scores.items():
        for axis, stream in layout.axes.get(name, {}).items():
            others = [other for other in range(weight.dim()) if other != axis]
            values = weight.double().sum(dim=others).cpu() if others else weight.double().cpu()
            offset = 0
            for part in stream:
                group = layout.groups[part]
                found[part] += values[offset : offset + group.size].view(-1, group.unit).sum(dim=1)
                offset += group.size
    return found
