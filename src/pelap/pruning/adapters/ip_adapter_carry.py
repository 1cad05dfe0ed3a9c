"""Cut an IP-Adapter of the original: keys and values of a picture, beside those of the text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from pelap.core.errors import ModelError
from pelap.models.kept_units import take_units
from pelap.models.loaded import LoadedModel
from pelap.pruning.adapters.lora_carry import find_units
from pelap.pruning.adapters.lora_names import MARK, check_values, load_tensors

CROSS_ATTENTION = ".attn2.to_k"
OWN, PICTURE = "ip_adapter.", "image_proj."
PARTS = {"to_k_ip.weight": "to_k", "to_v_ip.weight": "to_v"}
FIRST, STEP = 1, 2
"""Numbers of cross attentions in its file: odd ones, self attentions have the even."""


@dataclass(frozen=True)
class CarriedIPAdapter:
    """What became of an IP-Adapter."""

    ip_adapter: str
    """File of the original's."""
    output: str
    small: str
    """The pruned model's name."""
    num_carried: int
    """Cross attentions."""
    num_passed: int
    """Tensors of the picture's projection, which stay as they are."""
    dropped: list[str]
    """Cross attentions that pruning removed."""

    def describe(self) -> str:
        """For a terminal."""
        lines = [
            f"{'IP-Adapter':24} {self.ip_adapter}",
            f"{'cross attentions':24} {self.num_carried}",
            f"{'dropped':24} {len(self.dropped) or 'none'}",
            *(f"{'':24} {name}" for name in self.dropped),
        ]
        return "\n".join([*lines, f"{'written':24} {self.output}"])


def carry_ip_adapter(
    path: Path, model: LoadedModel, output: Path
) -> tuple[bytes, CarriedIPAdapter]:
    """The content of a file for the pruned model, and what became of the IP-Adapter.

    Args:
        path: The original's, a safetensors file.
        model: The pruned model, with a UNet.
        output: Where the new file will lie.

    Raises:
        ModelError: If the file or the model does not allow it.
    """
    units = find_units(model)
    layers = [name.removesuffix("to_k") for name in units.layers if name.endswith(CROSS_ATTENTION)]
    if not layers or not hasattr(model.denoiser, "down_blocks"):
        raise ModelError(f"{model.name} has no UNet with cross attention: no IP-Adapter fits it.")
    tensors, metadata = load_tensors(path)
    if MARK in metadata:
        raise ModelError(f"{path} was carried already ({metadata[MARK]}): give the original's.")
    check_values(path, tensors)
    places = {layer: FIRST + STEP * number for number, layer in enumerate(layers)}
    staying = [layer for layer in layers if units.layers[f"{layer}to_k"].name is not None]
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(PICTURE):
            found[name] = tensor
            continue
        layer, part = _place(path, name, places)
        cut = units.layers[f"{layer}{PARTS[part]}"]
        if tensor.dim() != 2 or tensor.shape[0] != cut.sizes[0]:
            raise ModelError(
                f"{path}: {name} is {' × '.join(map(str, tensor.shape))}, and "
                f"{layer}{PARTS[part]} of {units.original} has {cut.sizes[0]} outputs: it is of "
                "another model."
            )
        if layer in staying:
            number = FIRST + STEP * staying.index(layer)
            found[f"{OWN}{number}.{part}"] = take_units(tensor, 0, cut.outputs).contiguous()
    _check_whole(path, found, staying)
    record = CarriedIPAdapter(
        str(path), str(output), model.name, len(staying),
        sum(name.startswith(PICTURE) for name in found),
        [layer.removesuffix(".") for layer in layers if layer not in staying],
    )  # fmt: skip
    mark = json.dumps({"model": model.name, "original": units.original})
    return save(found, metadata={**metadata, MARK: mark}), record


def _place(path: Path, name: str, places: dict[str, int]) -> tuple[str, str]:
    """The cross attention that a tensor belongs to, and what it is of it."""
    number, _, part = name.removeprefix(OWN).partition(".")
    of = {str(number): layer for layer, number in places.items()}
    if not name.startswith(OWN) or part not in PARTS or number not in of:
        raise ModelError(
            f"{path}: {name} is no part of an IP-Adapter for a UNet with {len(places)} cross "
            "attentions; carried are those with image_proj and to_k_ip and to_v_ip for each."
        )
    return of[number], part


def _check_whole(path: Path, found: Mapping[str, object], staying: list[str]) -> None:
    for number, layer in enumerate(staying):
        for part in PARTS:
            if f"{OWN}{FIRST + STEP * number}.{part}" not in found:
                raise ModelError(f"{path}: {part} of {layer.removesuffix('.')} is missing.")
    if not any(name.startswith(PICTURE) for name in found):
        raise ModelError(f"{path}: image_proj is missing.")
