"""Which axes of which weights belong together when a network gets narrower."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pelap.core.errors import ModelError

Stream = tuple[str, ...]
"""Names of the groups that stand side by side on an axis, e.g. behind a concatenation."""


@dataclass(frozen=True)
class Group:
    """Features that are kept or removed everywhere at once."""

    size: int
    unit: int = 1
    """Features that go together: those of an attention head."""
    parts: int = 1
    """Norm groups, each of which loses as many, so that they go on norming the same features."""

    @property
    def num_units(self) -> int:
        return self.size // self.unit

    def features(self, units: Tensor) -> Tensor:
        """Feature indices of units, (n · unit,)."""
        return (units[:, None] * self.unit + torch.arange(self.unit)).flatten()


Kept = dict[str, Tensor]
"""Units that are kept, rising, by group."""


@dataclass
class WidthLayout:
    """The groups of a network and where they lie."""

    groups: dict[str, Group] = field(default_factory=dict)
    axes: dict[str, dict[int, Stream]] = field(default_factory=dict)
    """By name of a weight and axis."""
    rescaled: dict[str, str] = field(default_factory=dict)
    """Weights that follow the square root of a group's size, by name: queries of heads that get
    narrower, since attention divides by the root of the head's width."""
    features: dict[str, Stream] = field(default_factory=dict)
    """What leaves each block, by its name: for distillation."""

    def add(self, name: str, size: int, unit: int = 1, parts: int = 1) -> Stream:
        """A new group as a stream of its own."""
        self.groups[name] = Group(size, unit, parts)
        return (name,)

    def put(self, weight: str, axis: int, stream: Stream) -> None:
        """Say what lies on an axis."""
        self.axes.setdefault(weight, {})[axis] = stream

    def layer(self, layer: Any, name: str, inputs: Stream | None, outputs: Stream | None) -> None:
        """A linear layer or convolution; None where an axis stays as it is."""
        for axis, stream in ((0, outputs), (1, inputs)):
            if stream is not None:
                self.put(f"{name}.weight", axis, stream)
        if outputs is not None and layer.bias is not None:
            self.put(f"{name}.bias", 0, outputs)

    def norm(self, name: str, stream: Stream) -> None:
        """A norm with one factor and one shift a feature."""
        self.put(f"{name}.weight", 0, stream)
        self.put(f"{name}.bias", 0, stream)

    def size(self, stream: Stream) -> int:
        return sum(self.groups[name].size for name in stream)

    def features_of(self, stream: Stream, kept: Kept) -> Tensor:
        """Indices on an axis that stay."""
        parts, offset = [], 0
        for name in stream:
            group = self.groups[name]
            parts.append(group.features(kept[name]) + offset)
            offset += group.size
        return torch.cat(parts)

    def scale(self, weight: str, kept: Kept) -> float:
        """What a weight is multiplied by."""
        if weight not in self.rescaled:
            return 1.0
        group = self.rescaled[weight]
        return math.sqrt(len(kept[group]) / self.groups[group].num_units)

    def check(self, shapes: Iterable[tuple[str, torch.Size]]) -> None:
        """Compare with the weights.

        Raises:
            ModelError: If an axis has another size than its groups.
        """
        for name, shape in shapes:
            for axis, stream in self.axes.get(name, {}).items():
                if shape[axis] != self.size(stream):
                    raise ModelError(
                        f"{name} has {shape[axis]} features where {self.size(stream)} were "
                        "expected: this variant of the class is not supported."
                    )
