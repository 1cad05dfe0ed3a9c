"""Smaller configs of a denoiser's class, and what a step of each would cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from torch import nn

from pelap.core.errors import ConfigError, ModelError
from pelap.families.family import Freedom, Widths
from pelap.families.ports import Updates
from pelap.families.registry import denoiser_families, denoiser_family
from pelap.measure.macs import count_denoiser_macs
from pelap.pruning.rebuild import weightless

MAX_SHAPES = 24
"""Shapes compared at most."""


@dataclass(frozen=True)
class Shape:
    """A config that the class can express."""

    widths: Widths
    updates: Updates
    """Config fields that change."""
    macs: int
    """Of one denoising step of one picture."""


def find_freedom(denoiser: Any) -> Freedom:
    """What may change in this denoiser.

    Raises:
        ModelError: If its class is not supported.
    """
    family = denoiser_family(denoiser)
    if not family.can_narrow:
        known = ", ".join(name for name, one in denoiser_families().items() if one.can_narrow)
        raise ModelError(f"The width of {family.class_name} cannot be pruned; known are {known}.")
    return family.freedom(denoiser)


def make_shape(denoiser: nn.Module, widths: Widths) -> Shape:
    """The shape with these widths.

    Raises:
        ConfigError: If the class cannot have them.
        ModelError: If the class is not supported.
    """
    freedom = find_freedom(denoiser)
    if len(widths) != len(freedom.options):
        raise ConfigError(
            f"--denoiser-widths {_join(widths)}: give {len(freedom.options)} numbers "
            f"({', '.join(freedom.names)})."
        )
    for width, options, name in zip(widths, freedom.options, freedom.names, strict=True):
        if width not in options:
            raise ConfigError(f"--denoiser-widths {_join(widths)}: {name} can be {_join(options)}.")
    if not freedom.allows(widths):
        raise ConfigError(
            f"--denoiser-widths {_join(widths)}: levels that are as wide as the one before must "
            "stay so, and others must not become so."
        )
    return _shape(denoiser, freedom, widths)


def find_shapes(denoiser: nn.Module, most_macs: float) -> list[Shape]:
    """Shapes within a cost, of which none could be wider and stay within it.

    Args:
        denoiser: The network.
        most_macs: Of one denoising step.

    Returns:
        The most expensive first.

    Raises:
        ConfigError: If there is none.
        ModelError: If the class is not supported.
    """
    freedom = find_freedom(denoiser)
    estimate = _fit_macs(denoiser, freedom)
    all_widths = filter(freedom.allows, product(*freedom.options))
    fitting = [widths for widths in all_widths if estimate(widths) <= most_macs * ROUNDING]
    evenly = sorted(
        _largest(fitting) if fitting else [], key=lambda widths: _unevenness(widths, freedom)
    )[:MAX_SHAPES]
    found = [_shape(denoiser, freedom, widths) for widths in evenly]
    found = [shape for shape in found if shape.macs <= most_macs]
    if not found:
        narrowest = next(filter(freedom.allows, product(*freedom.options)))
        least = _shape(denoiser, freedom, narrowest)
        raise ConfigError(
            f"No {type(denoiser).__name__} of this family costs so little: the narrowest has "
            f"{least.macs / count_denoiser_macs(denoiser):.2f} of the MACs."
        )
    return sorted(found, key=lambda shape: shape.macs, reverse=True)


def _largest(shapes: list[Widths]) -> list[Widths]:
    """Those that no other is at least as wide as everywhere."""
    table = np.array(shapes)  # (N, levels)
    within = (table[:, None] <= table[None]).all(axis=2)  # (N, N), each within itself
    return [widths for widths, count in zip(shapes, within.sum(axis=1), strict=True) if count == 1]


def _unevenness(widths: Widths, freedom: Freedom) -> float:
    ratios = [w / options[-1] for w, options in zip(widths, freedom.options, strict=True)]
    return max(ratios) - min(ratios)


def _shape(denoiser: nn.Module, freedom: Freedom, widths: Widths) -> Shape:
    updates = freedom.updates(widths)
    return Shape(widths, updates, count_denoiser_macs(weightless(denoiser, updates)))


def _fit_macs(denoiser: nn.Module, freedom: Freedom) -> Callable[[Widths], float]:
    """Cost as a polynomial of degree 2 in each width: exact but for rounding to whole heads.

    Layers multiply what a UNet's levels add, so products of all widths are terms too.
    """
    powers = [
        power for power in product(range(3), repeat=len(freedom.options))
        if sum(power) <= max(2, MAX_DEGREE - len(freedom.options))
    ]  # fmt: skip
    tops = np.array([options[-1] for options in freedom.options], dtype=float)

    def terms(widths: Sequence[int]) -> np.ndarray:
        return np.array([math.prod((widths / tops) ** power) for power in powers])

    samples = _samples(freedom)
    costs = [float(_shape(denoiser, freedom, widths).macs) for widths in samples]
    weights = np.linalg.lstsq(np.stack([terms(w) for w in samples]), np.array(costs), rcond=None)[0]
    return lambda widths: float(terms(widths) @ weights)


MAX_DEGREE = 5
ROUNDING = 1 + 1e-9
"""Of the estimate; what is compared is counted."""


def _samples(freedom: Freedom) -> list[Widths]:
    """Lowest, middle and highest width of each level, two levels changed at most."""
    thirds = [(o[0], o[len(o) // 2], o[-1]) for o in freedom.options]
    top = tuple(options[-1] for options in freedom.options)
    found = [
        widths for widths in product(*thirds)
        if sum(w != t for w, t in zip(widths, top, strict=True)) <= 2
    ]  # fmt: skip
    return list(dict.fromkeys(found))


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
