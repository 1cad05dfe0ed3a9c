"""Which units of an original denoiser a pruned one kept: what adapters are carried by.

Pruning changes a weight W to R · W · Sᵀ, where R and S select units or mix them. A pruned folder
holds them for each layer in `kept_units.safetensors`, beside the denoiser's folder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pelap.core.errors import ModelError, in_one_line
from pelap.core.records import from_json_dict, to_json

KEPT_UNITS = "kept_units.safetensors"
RECORD = "kept_units"
"""Of the file's metadata."""
Units = Tensor | None
"""On one axis: indices that stay, int64 (K,); a matrix (K, C), float64, where units were mixed;
None where the axis is as it was."""


@dataclass(frozen=True)
class LayerUnits:
    """What became of one layer."""

    name: str | None
    """In the pruned denoiser; None where the layer was removed."""
    sizes: tuple[int, ...]
    """Of the first two axes of the original's weight."""
    outputs: Units = None
    inputs: Units = None
    scale: float = 1.0
    """What the weight was multiplied by."""

    fitted: bool = False
    """Whether a least-squares fit, with a bias of its own, stands for the weight."""

    @property
    def new_sizes(self) -> tuple[int, ...]:
        """Of the pruned weight."""
        units = (self.outputs, self.inputs)
        pairs = zip(self.sizes, units, strict=False)
        return tuple(size if kept is None else len(kept) for size, kept in pairs)

    @property
    def selects(self) -> bool:
        """Whether units were selected and none mixed."""
        return not any(
            units is not None and units.is_floating_point() for units in (self.outputs, self.inputs)
        )


@dataclass(frozen=True)
class KeptUnits:
    """Of every layer of the original denoiser."""

    original: str
    """Name of the model that was pruned."""
    layers: dict[str, LayerUnits]
    """By the layer's name in the original."""

    def after(
        self, changes: Mapping[str, LayerUnits], removed: frozenset[str] = frozenset()
    ) -> "KeptUnits":
        """What stays of the original after a further pruning.

        Args:
            changes: By the layer's name before it; layers that are not named stay as they are.
            removed: Layers that it removed, by the same names.
        """
        found = {}
        for original, layer in self.layers.items():
            if layer.name is None or layer.name in removed:
                found[original] = replace(layer, name=None, outputs=None, inputs=None, scale=1.0)
            elif layer.name in changes:
                found[original] = _then(layer, changes[layer.name])
            else:
                found[original] = layer
        return KeptUnits(self.original, found)


def all_units(original: str, denoiser: nn.Module) -> KeptUnits:
    """Every unit of a denoiser that was not pruned yet."""
    weights = {
        name.removesuffix(".weight"): tuple(weight.shape[:2])
        for name, weight in denoiser.state_dict().items()
        if name.endswith(".weight")
    }
    return KeptUnits(original, {name: LayerUnits(name, sizes) for name, sizes in weights.items()})


def _then(first: LayerUnits, second: LayerUnits) -> LayerUnits:
    return LayerUnits(
        second.name,
        first.sizes,
        _compose(first.outputs, second.outputs, first.sizes[0]),
        _compose(first.inputs, second.inputs, first.sizes[-1]),
        first.scale * second.scale,
        first.fitted or second.fitted,
    )


def _compose(first: Units, second: Units, size: int) -> Units:
    if first is None or second is None:
        return second if first is None else first
    if second.is_floating_point() and not first.is_floating_point():
        first = torch.eye(size, dtype=torch.float64)[first]
    return take_units(first, 0, second)


def take_units(tensor: Tensor, axis: int, units: Units) -> Tensor:
    """A tensor at the kept units of an axis; where they were mixed, in float64."""
    if units is None:
        return tensor
    if not units.is_floating_point():
        return tensor.index_select(axis, units.to(tensor.device))
    source = tensor.double().movedim(axis, 0)
    return torch.tensordot(units.to(tensor.device), source, dims=1).movedim(0, axis)


def as_units(matrix: Tensor) -> Units:
    """A matrix (K, C) as what it does: nothing, a selection, or a mixing."""
    is_binary = bool(((matrix == 0) | (matrix == 1)).all() and (matrix.sum(dim=1) == 1).all())
    return as_indices(matrix.argmax(dim=1), matrix.shape[1]) if is_binary else matrix.double()


def as_indices(indices: Tensor, size: int) -> Units:
    """Indices of an axis of that size; None where all stay in their places."""
    return None if torch.equal(indices, torch.arange(size)) else indices


@dataclass(frozen=True)
class _Layer:
    """A layer in the file's metadata; its units are names of tensors."""

    name: str | None
    sizes: tuple[int, ...]
    outputs: str | None
    inputs: str | None
    scale: float
    fitted: bool


@dataclass(frozen=True)
class _Record:
    original: str
    layers: dict[str, _Layer]


def write_kept_units(units: KeptUnits) -> bytes:
    """The content of the file; layers with the same units share them."""
    tensors: dict[str, Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}

    def note(found: Units) -> str | None:
        if found is None:
            return None
        kept = found if found.is_floating_point() else found.to(torch.int32)
        key = (kept.dtype, tuple(kept.shape), kept.contiguous().numpy().tobytes())
        if key not in names:
            names[key] = f"units.{len(names)}"
            tensors[names[key]] = kept.contiguous().clone()
        return names[key]

    layers = {
        original: _Layer(
            layer.name,
            layer.sizes,
            note(layer.outputs),
            note(layer.inputs),
            layer.scale,
            layer.fitted,
        )
        for original, layer in units.layers.items()
    }
    return save(tensors, metadata={RECORD: to_json(_Record(units.original, layers))})


def read_kept_units(folder: Path) -> KeptUnits | None:
    """Those of a pruned folder; None where it holds none.

    Raises:
        ModelError: If the file is damaged.
    """
    path = folder / KEPT_UNITS
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(RECORD, "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = from_json_dict(_Record, json.loads(text), str(path), ModelError)
        layers = {original: _read(layer, tensors) for original, layer in record.layers.items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is damaged: {in_one_line(error)}.") from error
    return KeptUnits(record.original, layers)


def _read(layer: _Layer, tensors: dict[str, Tensor]) -> LayerUnits:
    def find(name: str | None) -> Units:
        if name is None:
            return None
        found = tensors[name]
        return found if found.is_floating_point() else found.long()

    units = (find(layer.outputs), find(layer.inputs))
    return LayerUnits(layer.name, layer.sizes, *units, layer.scale, layer.fitted)
