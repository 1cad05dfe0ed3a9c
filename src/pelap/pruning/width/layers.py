"""Keep some of a network's layers, under new numbers."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pelap.families.family import LayerList, Layers
from pelap.families.ports import State


def choose_layers(scores: Sequence[Tensor], lists: Sequence[LayerList]) -> Layers:
    """Layers to keep, rising: the fixed ones, and those with the highest scores.

    Args:
        scores: Of each list, one a layer.
        lists: How many of each stay.

    Returns:
        By the name of every list.
    """
    kept = {}
    for values, one in zip(scores, lists, strict=True):
        values = values.clone()
        values[list(one.fixed)] = math.inf
        ranked = values.argsort(descending=True, stable=True)
        numbers = sorted(ranked[: one.num_kept].tolist())
        kept |= dict.fromkeys(one.names, numbers)
    return kept


def sum_by_layer(sums: Mapping[str, float], lists: Sequence[LayerList]) -> list[Tensor]:
    """What the weights of each layer come to together, float64.

    Args:
        sums: Of each weight, by name.
        lists: Lists of layers.
    """
    found = []
    for one in lists:
        layers: dict[int, float] = {}
        for name, value in sums.items():
            for owner in one.names:
                if name.startswith(f"{owner}."):
                    number = int(name[len(owner) + 1 :].split(".")[0])
                    layers[number] = layers.get(number, 0.0) + value
        found.append(torch.tensor([layers[i] for i in range(len(layers))], dtype=torch.float64))
    return found


def take_layers(state: State, kept: Layers) -> State:
    """The weights of the kept layers under their new numbers, and all others."""
    named = ((new_name(name, kept), weight) for name, weight in state.items())
    return {name: weight for name, weight in named if name is not None}


def new_name(name: str, kept: Layers) -> str | None:
    """A weight's name once only these layers are kept; None if one that it is in is not."""
    parts = name.split(".")
    found = list(parts)
    for place, part in enumerate(parts):
        numbers = kept.get(".".join(parts[:place]))
        if numbers is None:
            continue
        if int(part) not in numbers:
            return None
        found[place] = str(numbers.index(int(part)))
    return ".".join(found)
