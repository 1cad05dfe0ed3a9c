"""Keep some of a transformer's layers, under new numbers."""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from pelap.families.family import Layers
from pelap.families.ports import Config, State

MAIN = "transformer_blocks"


def choose_layers(scores: dict[str, Tensor], depth: Mapping[str, str], updates: Config) -> Layers:
    """Layers to keep, rising: those with the highest scores.

    Of the main list the first stays, since DiT takes the condition of its output from it, and the
    last, since SD3's is made without a way for the text.

    Args:
        scores: One a layer, by the name of their list.
        depth: Names of the lists, by the config field that says how long each is.
        updates: Config fields that change, among them those that say how many layers stay.
    """
    kept = {}
    for field, owner in depth.items():
        values = scores[owner].clone()
        if owner == MAIN:
            values[-1] = values[0] = math.inf
        ranked = values.argsort(descending=True, stable=True)
        kept[owner] = sorted(ranked[: updates.get(field, len(values))].tolist())
    return kept


def take_layers(state: State, kept: Layers) -> State:
    """The weights of the kept layers under their new numbers, and all others."""
    named = ((new_name(name, kept), weight) for name, weight in state.items())
    return {name: weight for name, weight in named if name is not None}


def new_name(name: str, kept: Layers) -> str | None:
    """A weight's name once only these layers are kept; None if its layer is not."""
    match = re.match(r"(\w+)\.(\d+)\.(.*)", name)
    if match is None or match[1] not in kept:
        return name
    owner, number, rest = match[1], int(match[2]), match[3]
    return f"{owner}.{kept[owner].index(number)}.{rest}" if number in kept[owner] else None
