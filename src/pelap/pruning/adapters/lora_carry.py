"""Cut a LoRA of the original by the kept units: its update ΔW becomes R · ΔW · Sᵀ, as W did."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pelap.core.errors import DataError, ModelError
from pelap.core.files import read_object
from pelap.models.kept_units import KeptUnits, LayerUnits, take_units
from pelap.models.loaded import LoadedModel
from pelap.pruning.adapters.lora_names import MARK, Lora, LowRank, read_lora


@dataclass(frozen=True)
class CarriedLora:
    """What became of a LoRA."""

    lora: str
    """File of the original's."""
    output: str
    small: str
    """The pruned model's name."""
    num_carried: int
    """Layers of the denoiser."""
    num_passed: int
    """Layers of text encoders, which stay as they are."""
    dropped: list[str]
    """Layers that pruning removed."""
    fitted: list[str]
    """Layers that differ from what pruning the changed original would give: least squares."""
    kept_share: float
    """Size of the denoiser's update that is left (root of the sum of squares), in [0, 1] where
    units were selected."""

    def describe(self) -> str:
        """For a terminal."""
        lines = [
            f"{'LoRA':24} {self.lora}",
            f"{'carried layers':24} {self.num_carried}, text encoders' {self.num_passed}",
            f"{'dropped layers':24} {len(self.dropped) or 'none'}",
            *(f"{'':24} {name}" for name in self.dropped),
            f"{'size of its update':24} {self.kept_share:.1%} of it stays",
        ]
        if self.fitted:
            lines.append(f"{'by least squares':24} {', '.join(self.fitted)}")
        return "\n".join([*lines, f"{'written':24} {self.output}"])


def carry_lora(path: Path, model: LoadedModel, output: Path) -> tuple[bytes, CarriedLora]:
    """The content of a file for the pruned model, and what became of the LoRA.

    Args:
        path: The original's LoRA.
        model: The pruned model.
        output: Where the file will lie.

    Raises:
        ModelError: If the file or the model does not allow it.
    """
    units = find_units(model)
    lora = read_lora(path, model, units)
    small: Lora = {part: dict(layers) for part, layers in lora.items()}
    given = lora.get(model.denoiser_name, {})
    _check_layers(path, given, units)
    small[model.denoiser_name] = {}
    dropped, before, after = [], 0.0, 0.0
    for name, pair in given.items():
        layer = units.layers[name]
        before += _energy(pair)
        if layer.name is None:
            dropped.append(name)
            continue
        cut = _cut(f"{path}: {name}", pair, layer)
        after += _energy(cut)
        small[model.denoiser_name][layer.name] = cut
    if given and not small[model.denoiser_name]:
        raise ModelError(f"{path}: all of its layers were removed from {model.name}.")
    record = CarriedLora(
        str(path), str(output), model.name, len(given) - len(dropped),
        sum(len(layers) for part, layers in lora.items() if part != model.denoiser_name),
        sorted(dropped), sorted(n for n in given if units.layers[n].fitted),
        (after / before) ** 0.5 if before else 1.0,
    )  # fmt: skip
    metadata = {"format": "pt", MARK: json.dumps({"model": model.name, "original": units.original})}
    named = _tensors(small)
    if not hasattr(model.denoiser, "load_lora_adapter"):  # diffusers loads none: peft does
        prefix = f"{model.denoiser_name}."
        named = {f"base_model.model.{n.removeprefix(prefix)}": t for n, t in named.items()}
    return save(named, metadata=metadata), record


def is_carried(path: Path) -> bool:
    """Whether a file is a LoRA that `carry_lora` made."""
    try:
        with safe_open(path, "pt") as file:
            return MARK in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def is_record(path: Path) -> bool:
    """Whether a file is the JSON of what became of an adapter."""
    try:
        return {"output", "small", "num_carried"} <= set(read_object(path, DataError))
    except (OSError, DataError):
        return False


def find_units(model: LoadedModel) -> KeptUnits:
    """Those of a pruned model.

    Raises:
        ModelError: If it says nothing of them.
    """
    if model.kept_units is None:
        raise ModelError(
            f"{model.name} does not say which units it kept (kept_units.safetensors): give a "
            "folder that `pelap prune` or `pelap recover` wrote; an older one must be pruned anew."
        )
    return model.kept_units


def _check_layers(path: Path, given: Mapping[str, LowRank], units: KeptUnits) -> None:
    for name, pair in given.items():
        if name not in units.layers:
            raise ModelError(f"{path}: {name} is no layer of the original, {units.original}.")
        layer = units.layers[name]
        sizes = (pair.up.shape[0], pair.down.shape[1])
        if sizes == layer.sizes:
            continue
        wanted = " × ".join(map(str, layer.sizes))
        if sizes == layer.new_sizes:
            raise ModelError(
                f"{path} fits the pruned model as it is ({name} is {' × '.join(map(str, sizes))}): "
                "load it as it is; `pelap adapt` takes LoRAs of the original."
            )
        raise ModelError(
            f"{path}: {name} is {' × '.join(map(str, sizes))}, in the original "
            f"{units.original} it is {wanted}."
        )


def _cut(where: str, pair: LowRank, layer: LayerUnits) -> LowRank:
    magnitude = pair.magnitude
    if magnitude is not None:
        if layer.inputs is not None or not layer.selects or layer.scale != 1:
            raise ModelError(
                f"{where} is DoRA, whose magnitudes are of the whole inputs, and some of them were "
                "removed: only plain LoRA can be carried through this layer."
            )
        magnitude = take_units(magnitude, 0, layer.outputs)
    bias = None if pair.bias is None else take_units(pair.bias, 0, layer.outputs)
    down = take_units(pair.down, 1, layer.inputs).to(pair.down.dtype)
    up = take_units(pair.up, 0, layer.outputs).to(pair.up.dtype)
    return LowRank(down, up, pair.scale * layer.scale, bias, magnitude)


def _energy(pair: LowRank) -> float:
    """Sum of the squares of scale · up · down."""
    up, down = pair.up.double().flatten(1), pair.down.double().flatten(1)
    return pair.scale**2 * float(((up.T @ up) * (down @ down.T)).sum())


def _tensors(lora: Lora) -> dict[str, Tensor]:
    """By peft's names, alphas folded in and ranks made equal with zeros, so that every version of
    diffusers reads the same scale from them."""
    found = {}
    for part, layers in lora.items():
        rank = max((pair.down.shape[0] for pair in layers.values()), default=0)
        for layer, pair in layers.items():
            name = f"{part}.{layer}"
            found[f"{name}.lora_A.weight"] = _padded(pair.down, 0, rank)
            up = (pair.up.double() * pair.scale).to(pair.up.dtype)
            found[f"{name}.lora_B.weight"] = _padded(up, 1, rank)
            if pair.bias is not None:
                found[f"{name}.lora_B.bias"] = pair.bias * pair.scale
            if pair.magnitude is not None:
                found[f"{name}.lora_magnitude_vector"] = pair.magnitude.flatten()
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _padded(tensor: Tensor, axis: int, rank: int) -> Tensor:
    missing = list(tensor.shape)
    missing[axis] = rank - missing[axis]
    return torch.cat([tensor, tensor.new_zeros(missing)], dim=axis)
