"""The safetensors files of one network: which are read, in which precision, and whether they fit.

Names are those of diffusers: diffusion_pytorch_model[.VARIANT].safetensors, or shards of it with an
index. A pickle is never read, whatever an index names.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pelap.core.errors import ModelError, in_one_line

STEM = "diffusion_pytorch_model"
SUFFIX = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The widest first."""


@dataclass(frozen=True)
class WeightFiles:
    """What a network is read from."""

    paths: tuple[Path, ...]
    variant: str | None
    """Of their names, e.g. fp16; None where they have none."""

    def names(self) -> dict[str, str]:
        """The weights' names, each with its precision as safetensors calls it.

        Raises:
            ModelError: If a file is damaged.
        """
        return {name: dtype for path in self.paths for name, dtype in _dtypes(path).items()}

    def dtype(self) -> torch.dtype:
        """The widest precision that the files hold, so that nothing of them is lost.

        Raises:
            ModelError: If a file is damaged, or they hold nothing, or quantised weights.
        """
        found = set(self.names().values())
        if not found:
            raise ModelError(f"{self.paths[0]} holds no weights.")
        narrow = next((name for name in sorted(found) if name.startswith("F8")), None)
        if narrow is not None:
            raise ModelError(
                f"{self.paths[0]} holds weights in 8-bit floats ({narrow}), which cannot be "
                "computed with: give the model in fp16, bf16 or fp32."
            )
        kept = [dtype for name, dtype in DTYPES.items() if name in found]
        if not kept:
            raise ModelError(
                f"{self.paths[0]} holds integers ({', '.join(sorted(found))}) and no floats: "
                "quantised weights are not supported, give the model in fp16, bf16 or fp32."
            )
        return kept[0]


def find_weights(folder: Path) -> WeightFiles:
    """The files that a network in this folder is read from; those without a variant first.

    Raises:
        ModelError: If there are none, they are quantised or pickles, or an index names others.
    """
    _refuse_quantised(folder)
    if not _ours(folder):
        refuse_pickles(folder)
        raise ModelError(f"{folder} is incomplete: it holds no weights ({STEM}{SUFFIX}).")
    variant = find_variant(folder)
    middle = f".{variant}" if variant else ""
    single = folder / f"{STEM}{middle}{SUFFIX}"
    if single.is_file():
        return WeightFiles((single,), variant)
    return WeightFiles(_shards(folder / f"{STEM}{SUFFIX}.index{middle}.json"), variant)


def find_variant(folder: Path) -> str | None:
    """The variant that a network of this folder is read in; None also if it holds no weights."""
    found = {_variant(path.name) for path in _ours(folder)}
    return None if None in found or not found else sorted(str(name) for name in found)[0]


def refuse_pickles(folder: Path) -> None:
    """ModelError if the folder holds pickled weights."""
    found = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
    if found:
        raise ModelError(
            f"{folder} holds only pickled weights ({found[0].name}), which are never loaded: "
            "save it as safetensors first (save_pretrained does)."
        )


def check_loaded(folder: Path, network: nn.Module, missing: Iterable[str]) -> None:
    """Refuse a network that its files do not fill.

    Args:
        folder: What errors begin with.
        network: As it was loaded.
        missing: Names of weights that the files did not hold.

    Raises:
        ModelError: If there are such, or a weight is not finite.
    """
    lacking = sorted(missing)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ModelError(
            f"{folder} is incomplete: its files hold no {lacking[0]}{more}; what was saved under "
            "other names (by torch.compile, with an adapter) must be merged or converted first."
        )
    for name, values in network.state_dict().items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ModelError(f"{folder} is damaged: {name} holds values that are not finite.")


def _ours(folder: Path) -> list[Path]:
    """Weight files and indices of weight files."""
    return [
        path
        for path in folder.glob(f"{STEM}*")
        if path.name.endswith(SUFFIX) or (f"{SUFFIX}.index" in path.name and path.suffix == ".json")
    ]


def _variant(name: str) -> str | None:
    """`fp16` of diffusion_pytorch_model.fp16.safetensors, of its shards and of their index."""
    if ".index" in name:
        middle = name.removeprefix(f"{STEM}{SUFFIX}.index").removesuffix(".json")
    else:
        middle = name.removeprefix(STEM).removesuffix(SUFFIX)
        if middle.startswith("-"):  # the way before: shards numbered in front of the variant
            middle = middle.partition(".")[2] and f".{middle.partition('.')[2]}"
    return middle.lstrip(".").split("-")[0] or None


def _shards(index: Path) -> tuple[Path, ...]:
    folder = index.parent
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except OSError as error:
        raise ModelError(f"{folder} is incomplete: it holds no {index.name}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of weight files.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
            raise ModelError(
                f"{index} names {name!r}: only safetensors files beside it are read, never pickles."
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is incomplete: it holds no {name}.")
    if not names:
        raise ModelError(f"{index} names no weight files.")
    return tuple(folder / name for name in names)


def _refuse_quantised(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return  # who loads it complains
    said = config.get("quantization_config") if isinstance(config, dict) else None
    if said is not None:
        method = said.get("quant_method") if isinstance(said, dict) else said
        raise ModelError(
            f"{folder} is quantised ({method}), which is not supported: give the model in fp16, "
            "bf16 or fp32, and quantise what pelap writes."
        )


def _dtypes(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            return {name: file.get_slice(name).get_dtype() for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {in_one_line(error)}") from error
