"""A LoRA's file by any of its names (diffusers, kohya, peft) as low-rank pairs by layer."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import logging
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pelap.core.errors import ModelError, in_one_line
from pelap.core.json_values import JsonObject
from pelap.models.kept_units import KEPT_UNITS, KeptUnits
from pelap.models.loaded import LoadedModel

MARK = "pelap_adapted_for"
"""Of the metadata of a file that was carried to a pruned model."""
CONFIG = "lora_adapter_metadata"
"""Where diffusers keeps peft's config in a file's metadata."""
BASE_IN_CONFIG = "base_model_name_or_path"
"""Where peft's config names the model that was trained."""
BASES = ("ss_sd_model_name",)
"""Where a file's metadata does: kohya's."""
NOT_CARRIED = {
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "oft_": "OFT",
    "lora_mid": "LoCon with a middle layer",
    "dora_scale": "DoRA in kohya's names, which diffusers does not load either",
    "lora_embedding_": "LoRA of an embedding",
    ".diff": "whole weights",
}
"""What names of tensors say of a file that holds no low-rank pairs."""
PARTS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_B.bias": "bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
OLDER = ("_lora.", ".lora.", ".lora_linear_layer.", ".to_out.lora_magnitude_vector")
"""In names that diffusers gave before it took peft's."""
KOHYA = re.compile(r"lora_(unet|transformer|te\d?)_")


@dataclass(frozen=True)
class LowRank:
    """What a LoRA adds to one layer: scale · up · down."""

    down: Tensor
    """(r, inputs, …)."""
    up: Tensor
    """(outputs, r, …)."""
    scale: float
    """alpha / r, or alpha / √r."""
    bias: Tensor | None = None
    magnitude: Tensor | None = None
    """Of DoRA, (outputs,)."""


Lora = dict[str, dict[str, LowRank]]
"""By part of the pipeline and layer."""


def read_lora(path: Path, model: LoadedModel, units: KeptUnits) -> Lora:
    """The low-rank pairs in a file.

    Args:
        path: A safetensors file; an adapter_config.json of peft beside it is read too.
        model: The pruned one, whose pipeline says which names are known.
        units: Of the original's denoiser.

    Raises:
        ModelError: If it is no LoRA, or one that cannot be carried; names what is wrong.
    """
    tensors, metadata = load_tensors(path)
    if MARK in metadata:
        raise ModelError(
            f"{path} was carried to a pruned model already ({metadata[MARK]}): give the LoRA of "
            "the original."
        )
    for part, what in NOT_CARRIED.items():
        for name in tensors:
            if part in name:
                raise ModelError(f"{path} cannot be carried: {name} is {what}.")
    check_values(path, tensors)
    configs = _configs(path, metadata, model.denoiser_name)
    named = configs.get(model.denoiser_name, {}).get(BASE_IN_CONFIG)
    for base in (named, *(metadata.get(name) for name in BASES)):
        if isinstance(base, str):
            _check_base(path, base, model, units)
    tensors, alphas = _diffusers_names(path, tensors, model, units)
    return _pairs(path, tensors, alphas, configs, model.denoiser_name)


def _check_base(path: Path, base: str, model: LoadedModel, units: KeptUnits) -> None:
    """Refuse what says that it was trained on the pruned model, or on another pruned one."""
    folder = Path(base)
    is_pruned = any((place / KEPT_UNITS).is_file() for place in (folder, folder.parent))
    if is_pruned or (folder.name == model.name != units.original):
        raise ModelError(
            f"{path} was trained on {folder.name}, a pruned model, as it says: load it there as it "
            f"is; `pelap adapt` takes LoRAs of the original, {units.original}."
        )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ModelError: If there is none, or it is damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file: give the adapter's safetensors file.")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is no safetensors file: only those are read, never pickles.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged: {in_one_line(error)}.") from error
    if not tensors:
        raise ModelError(f"{path} is empty: it holds no tensors.")
    return tensors, metadata


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is no finite floating-point number.

    Raises:
        ModelError: Names the tensor.
    """
    for name, tensor in tensors.items():
        if name.endswith("alpha"):
            if tensor.numel() != 1 or not bool(tensor.float().isfinite().all()):
                raise ModelError(f"{path}: {name} should be one finite number.")
        elif not tensor.is_floating_point():
            raise ModelError(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers.")
        elif not bool(tensor.isfinite().all()):
            raise ModelError(f"{path}: {name} holds values that are not finite.")


def _configs(path: Path, metadata: Mapping[str, str], denoiser_name: str) -> JsonObject:
    """peft's config by part of the pipeline, where the file or its folder has one."""
    beside = path.with_name("adapter_config.json")
    try:
        if CONFIG in metadata:
            given: dict[str, dict[str, Any]] = defaultdict(dict)
            for name, value in json.loads(metadata[CONFIG]).items():
                part, _, field = name.partition(".")
                given[part][field] = value
            return dict(given)
        if beside.is_file():
            return {denoiser_name: dict(json.loads(beside.read_text()))}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: the LoRA's config is damaged: {in_one_line(error)}.") from error
    return {}


def _diffusers_names(
    path: Path, tensors: dict[str, Tensor], model: LoadedModel, units: KeptUnits
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors by part.layer, and the alphas that were among them."""
    prefix = f"{model.denoiser_name}."
    if any(KOHYA.match(name) for name in tensors):
        tensors, alphas = _from_kohya(path, tensors, model, units)
    else:
        alphas = {name: float(t) for name, t in tensors.items() if name.endswith(".alpha")}
        tensors = {name: t for name, t in tensors.items() if name not in alphas}
    parts = tuple(f"{part}." for part in (model.denoiser_name, *_text_encoders(model)))

    def full(name: str) -> str:
        name = name.removeprefix("base_model.model.")
        return name if name.startswith(parts) else prefix + name

    return {full(n): t for n, t in tensors.items()}, {full(n): a for n, a in alphas.items()}


def _text_encoders(model: LoadedModel) -> list[str]:
    return [name for name in model.parts if name.startswith("text_encoder")] or ["text_encoder"]


def _from_kohya(
    path: Path, tensors: dict[str, Tensor], model: LoadedModel, units: KeptUnits
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """By the layers' own names with underscores for dots; else as diffusers converts them."""
    known = {name.replace(".", "_"): name for name in units.layers}
    found, alphas, rest = {}, {}, {}
    for name, tensor in tensors.items():
        head, _, tail = name.partition(".")
        match = KOHYA.match(head)
        layer = known.get(head[match.end() :]) if match else None
        if match is None or match[1].startswith("te") or layer is None:
            rest[name] = tensor
        elif tail == "alpha":
            alphas[f"{model.denoiser_name}.{layer}.alpha"] = float(tensor)
        else:
            tail = tail.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
            found[f"{model.denoiser_name}.{layer}.{tail}"] = tensor
    if not rest:
        return found, alphas
    loader = getattr(diffusers, str(model.parts.get("_class_name")), None)
    if not hasattr(loader, "lora_state_dict"):
        raise ModelError(f"{path}: {next(iter(rest))} is no layer of the original's.")
    is_unet = model.denoiser_name == "unet"
    kind = {"unet_config": _depth_before(units)} if is_unet else {"return_alphas": True}
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        converted, *others = loader.lora_state_dict(rest, **kind)  # type: ignore[union-attr]
    except (ValueError, KeyError, IndexError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: diffusers cannot read it: {in_one_line(error)}") from error
    finally:
        logging.set_verbosity(before)
    more = others[0] if others and isinstance(others[0], dict) else {}
    return found | converted, alphas | {name: float(value) for name, value in more.items()}


def _depth_before(units: KeptUnits) -> FrozenDict:
    """What diffusers asks of the original UNet's config, to count through its blocks."""
    first = "down_blocks.0.resnets."
    resnets = {name.removeprefix(first).split(".")[0] for name in units.layers if first in name}
    return FrozenDict(layers_per_block=len(resnets))


def _pairs(
    path: Path,
    tensors: Mapping[str, Tensor],
    alphas: Mapping[str, float],
    configs: JsonObject,
    denoiser_name: str,
) -> Lora:
    layers: dict[str, dict[str, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in tensors.items():
        part, layer, role = _place(name, denoiser_name)
        if role not in PARTS:
            raise ModelError(f"{path}: {name} is no part of a LoRA.")
        layers[part][layer][PARTS[role]] = tensor
    of = {_place(f"{name.removesuffix('.alpha')}", denoiser_name)[:2]: alpha
          for name, alpha in alphas.items()}  # fmt: skip
    for part, layer in of:
        if layer not in layers.get(part, {}):
            raise ModelError(f"{path}: {part}.{layer} has an alpha, but no LoRA.")
    return {
        part: {
            layer: _pair(f"{path}: {part}.{layer}", found, of.get((part, layer)),
                         configs.get(part, {}), layer)
            for layer, found in named.items()
        }
        for part, named in layers.items()
    }  # fmt: skip


def _place(name: str, denoiser_name: str) -> tuple[str, str, str]:
    """Part of the pipeline, layer and role of a tensor with diffusers' or peft's name."""
    part, _, rest = name.partition(".")
    if any(older in rest for older in OLDER):
        is_denoiser = part == denoiser_name
        convert = convert_unet_state_dict_to_peft if is_denoiser else convert_state_dict_to_peft
        rest = next(iter(convert({rest: torch.empty(0)})))
    rest = rest.replace(".processor", "")
    layer, role = re.fullmatch(r"(.*?)(?:\.(lora_.*))?", rest).groups()  # type: ignore[union-attr]
    return part, layer, role or ""


def _pair(
    where: str, found: Mapping[str, Tensor], alpha: float | None, config: JsonObject,
    layer: str,
) -> LowRank:  # fmt: skip
    for role in ("down", "up"):
        if role not in found:
            raise ModelError(f"{where} lacks its {role} matrix.")
    down, up = found["down"], found["up"]
    if down.dim() not in (2, 4) or up.dim() != down.dim():
        raise ModelError(f"{where} has matrices of {down.dim()} and {up.dim()} axes.")
    rank = down.shape[0]
    if up.shape[1] != rank or not rank:
        raise ModelError(f"{where} has rank {rank} on one side and {up.shape[1]} on the other.")
    scale = 1.0 if alpha is None else alpha / rank
    if alpha is None and "lora_alpha" in config:
        scale = _config_scale(where, config, layer, rank)
    magnitude = found.get("magnitude")
    if magnitude is not None and magnitude.numel() != up.shape[0]:
        raise ModelError(f"{where} has a DoRA magnitude of another size.")
    return LowRank(down, up, scale, found.get("bias"), magnitude)


def _config_scale(where: str, config: JsonObject, layer: str, rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    try:
        named = (a for key, a in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer))
        alpha = float(next(named, config["lora_alpha"]))
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise ModelError(f"{where}: its alpha cannot be read: {in_one_line(error)}.") from error
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
