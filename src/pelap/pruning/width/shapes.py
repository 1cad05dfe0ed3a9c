"""Smaller configs of a denoiser's class, and what a step of each costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pelap.core.errors import ConfigError, ModelError
from pelap.core.network import as_network
from pelap.families.family import Freedom, Widths
from pelap.families.ports import Updates
from pelap.families.registry import denoiser_families, denoiser_family
from pelap.measure.macs import count_denoiser_macs
from pelap.pruning.rebuild import weightless


@dataclass(frozen=True)
class Shape:
    """A config that the class can express."""

    widths: Widths
    """And counts of layers, as in `Freedom`."""
    updates: Updates
    """Config fields that change."""
    macs: int
    """Of one denoising step of one picture."""


def find_freedom(denoiser: nn.Module) -> Freedom:
    """What may change in this denoiser.

    Raises:
        ModelError: If its class is not supported.
    """
    family = denoiser_family(denoiser)
    if not family.can_narrow:
        known = ", ".join(name for name, one in denoiser_families().items() if one.can_narrow)
        raise ModelError(f"The width of {family.class_name} cannot be pruned; known are {known}.")
    return family.freedom(as_network(denoiser))


def make_shape(denoiser: nn.Module, widths: Widths) -> Shape:
    """The shape with these widths, and these numbers of layers; those left out stay as they are.

    Raises:
        ConfigError: If the class cannot have them.
        ModelError: If the class is not supported.
    """
    freedom = find_freedom(denoiser)
    most, fewest = len(freedom.options), freedom.num_widths
    if not fewest <= len(widths) <= most:
        number = f"{most}" if fewest == most else f"{fewest} to {most}"
        raise ConfigError(
            f"--denoiser-widths {_join(widths)}: give {number} numbers "
            f"({', '.join(freedom.names)})."
        )
    widths = (*widths, *(options[-1] for options in freedom.options[len(widths) :]))
    for width, options, name in zip(widths, freedom.options, freedom.names, strict=True):
        if width not in options:
            raise ConfigError(f"--denoiser-widths {_join(widths)}: {name} can be {_join(options)}.")
    if not freedom.allows(widths):
        raise ConfigError(
            f"--denoiser-widths {_join(widths)}: levels that are as wide as the one before must "
            "stay so, and others must not become so."
        )
    updates = freedom.updates(widths)
    return Shape(widths, updates, count_denoiser_macs(weightless(denoiser, updates)))


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
