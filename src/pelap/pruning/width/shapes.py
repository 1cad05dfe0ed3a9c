"""Smaller configs of a denoiser's class, and what a step of each would cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from torch import nn

from pelap.core.errors import ConfigError, ModelError
from pelap.measure.macs import count_denoiser_macs
from pelap.pruning.rebuild import weightless
from pelap.pruning.width.transformer_layout import transformer_updates

MAX_STEPS = 8
"""Widths tried at most for each level."""
MAX_SHAPES = 24
"""Shapes compared at most."""

Widths = tuple[int, ...]
"""A UNet's channels by level; a transformer's heads and layers."""


@dataclass(frozen=True)
class Shape:
    """A config that the class can express."""

    widths: Widths
    updates: dict[str, Any]
    """Config fields that change."""
    macs: int
    """Of one denoising step of one picture."""


@dataclass(frozen=True)
class Freedom:
    """What may change in a class of denoisers."""

    options: tuple[Widths, ...]
    """Values that each width may take, rising; the last is today's."""
    names: tuple[str, ...]
    updates: Callable[[Widths], dict[str, Any]]
    steps: tuple[bool, ...] = ()
    """Whether each width differs from the one before it, which must stay so: where two levels of a
    UNet are as wide, there is no shortcut convolution between them."""

    def allows(self, widths: Widths) -> bool:
        pairs = zip(widths, widths[1:], self.steps, strict=False)
        return all((one != other) == differs for one, other, differs in pairs)


def find_freedom(denoiser: Any) -> Freedom:
    """What may change in this denoiser.

    Raises:
        ModelError: If its class is not supported.
    """
    name = type(denoiser).__name__
    if name not in FREEDOMS:
        raise ModelError(f"The width of {name} cannot be pruned; known are {', '.join(FREEDOMS)}.")
    return FREEDOMS[name](denoiser)


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


def _spread(values: Sequence[int]) -> Widths:
    """At most MAX_STEPS of rising values, evenly, the last among them."""
    if len(values) <= MAX_STEPS:
        return tuple(values)
    places = np.linspace(0, len(values) - 1, MAX_STEPS).round().astype(int)
    return tuple(values[place] for place in places)


def _unet_2d(unet: Any) -> Freedom:
    config, groups = unet.config, unet.config["norm_num_groups"]
    head = config["attention_head_dim"] or 1
    attends = _attending_levels(config)
    options = []
    for level, width in enumerate(config["block_out_channels"]):
        least = max(width // 4, head if level in attends else 1)
        values = [value for value in range(groups, width, groups) if value >= least]
        options.append((*_spread(values)[-MAX_STEPS + 1 :], width))
    return Freedom(
        tuple(options), _level_names(config), lambda widths: _unet_updates(unet, widths),
        _steps(config["block_out_channels"]),
    )  # fmt: skip


def _unet_condition(unet: Any) -> Freedom:
    config = unet.config
    widths, groups = config["block_out_channels"], config["norm_num_groups"]
    heads = _by_level(config["attention_head_dim"], len(widths))
    attends = _attending_levels(config)
    options = []
    for level, width in enumerate(widths):
        step = math.lcm(groups, width // heads[level]) if level in attends else groups
        values = [value for value in range(step, width, step) if value >= width // 4]
        options.append((*_spread(values)[-MAX_STEPS + 1 :], width))

    def updates(chosen: Widths) -> dict[str, Any]:
        found = _unet_updates(unet, chosen)
        changes = [
            max(1, new * count // old)
            for new, old, count in zip(chosen, widths, heads, strict=True)
        ]
        if tuple(changes) != heads:
            found["attention_head_dim"] = tuple(changes)
        return found

    return Freedom(tuple(options), _level_names(config), updates, _steps(widths))


def _unet_updates(unet: Any, widths: Widths) -> dict[str, Any]:
    config = unet.config
    updates: dict[str, Any] = {"block_out_channels": widths}
    if widths[0] != config["block_out_channels"][0] and not config["time_embedding_dim"]:
        updates["time_embedding_dim"] = unet.time_embedding.linear_1.out_features
    return updates


def _steps(widths: Sequence[int]) -> tuple[bool, ...]:
    return tuple(one != other for one, other in pairwise(widths))


def _attending_levels(config: Any) -> set[int]:
    """Levels with attention; the middle block has the width of the last."""
    num_levels = len(config["block_out_channels"])
    down, up = config["down_block_types"], tuple(reversed(config["up_block_types"]))
    found = {level for level in range(num_levels) if "Attn" in down[level] + up[level]}
    has_middle = config["mid_block_type"] is not None and config.get("add_attention", True)
    return found | ({num_levels - 1} if has_middle else set())


def _by_level(value: Any, num_levels: int) -> Widths:
    return (value,) * num_levels if isinstance(value, int) else tuple(value)


def _level_names(config: Any) -> tuple[str, ...]:
    return tuple(f"level {level}" for level in range(len(config["block_out_channels"])))


def _transformer(transformer: Any) -> Freedom:
    config = transformer.config
    heads = range(max(1, config["num_attention_heads"] // 4), config["num_attention_heads"] + 1)
    least = min(2, config["num_layers"])  # first and last always stay
    layers = range(max(least, config["num_layers"] // 4), config["num_layers"] + 1)
    return Freedom(
        (_spread(heads), _spread(layers)), ("heads", "layers"),
        lambda widths: transformer_updates(transformer, *widths),
    )  # fmt: skip


FREEDOMS: dict[str, Callable[[Any], Freedom]] = {
    "UNet2DModel": _unet_2d,
    "UNet2DConditionModel": _unet_condition,
    "DiTTransformer2DModel": _transformer,
    "PixArtTransformer2DModel": _transformer,
    "SD3Transformer2DModel": _transformer,
    "FluxTransformer2DModel": _transformer,
    "SanaTransformer2DModel": _transformer,
}
