"""What a pipeline says of many prompts, kept on disk and read by the row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pelap.core.cache import cache_folder
from pelap.core.devices import process_state
from pelap.core.digests import digest
from pelap.core.errors import ModelError
from pelap.core.files import write_whole
from pelap.core.progress import track
from pelap.families.conditioned import Told
from pelap.models.loaded import LoadedModel
from pelap.models.unconditional import caught_arguments

PROMPTS_A_FILE = 16
"""Also those that are encoded at a time."""
JOINED = "/"
"""Between the names of nested arguments."""


class ToldRows(Protocol):
    """Arguments of a denoiser's forward, a row a prompt."""

    def take(self, rows: Tensor) -> Told:
        """Those of some rows, int64 (B,)."""
        ...


@dataclass(frozen=True)
class RowsInMemory:
    """Few or small ones."""

    arguments: Told
    """Tensors (N, …)."""

    def take(self, rows: Tensor) -> Told:
        return {name: value[rows.to(value.device)] for name, value in self.arguments.items()}


@dataclass(frozen=True)
class RowsOnDisk:
    """Those of text encoders, which are many and large; files are mapped, not read whole."""

    folder: Path
    files: dict[int, Any] = field(default_factory=dict, compare=False)
    """Open ones by number."""

    def take(self, rows: Tensor) -> Told:
        found = [self._row(int(row)) for row in rows]
        told: Told = {}
        for name in found[0]:
            *outer, last = name.split(JOINED)
            inner = told
            for part in outer:
                inner = inner.setdefault(part, {})
            inner[last] = torch.cat([row[name] for row in found])  # (B, …)
        return told

    def _row(self, row: int) -> dict[str, Tensor]:
        number, place = divmod(row, PROMPTS_A_FILE)
        if number not in self.files:
            self.files[number] = safe_open(_path(self.folder, number), "pt")
        file = self.files[number]
        return {name: file.get_slice(name)[place : place + 1] for name in file.keys()}  # noqa: SIM118


def read_told(model: LoadedModel, prompts: Sequence[str], size: int) -> RowsOnDisk:
    """A row a prompt, as the model's own pipeline tells its denoiser; encoded once.

    They lie in pelap's cache under the weights of what encodes them, and an interrupted encoding
    goes on. Text encoders leave memory with the pipeline.

    Args:
        model: With its empty `condition`.
        prompts: Distinct ones.
        size: Of the pictures, in pixels.

    Raises:
        ModelError: If the pipeline cannot be called, or does not pass a row a prompt.
    """
    assert model.condition is not None
    pipeline = model.pipeline()
    encoders = [
        part
        for name, part in sorted(pipeline.components.items())
        if isinstance(part, nn.Module) and name not in (model.denoiser_name, model.autoencoder_name)
    ]
    names = [name for name in model.condition.arguments if name not in model.condition.shared]
    key = digest(type(pipeline).__name__, *encoders, list(prompts), size, names)
    folder = cache_folder("told", key[:24])
    groups = [
        prompts[start : start + PROMPTS_A_FILE] for start in range(0, len(prompts), PROMPTS_A_FILE)
    ]
    shapes = {name: value.shape[1:] for name, value in _flat(model.condition.arguments).items()}
    with process_state().local_main_process_first():
        missing = [n for n in range(len(groups)) if not _path(folder, n).is_file()]
        for number in track(missing, "Encoding captions" if missing else None):
            arguments, _ = caught_arguments(model, pipeline, groups[number], size)
            tensors = _flat({name: arguments[name] for name in names})
            _check(tensors, len(groups[number]), shapes)
            write_whole(_path(folder, number), save(tensors))
        index = {"model": model.name, "prompts": list(prompts)}
        write_whole(folder / "prompts.json", json.dumps(index, indent=1).encode())
    return RowsOnDisk(folder)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def _flat(arguments: Told) -> dict[str, Tensor]:
    """Tensors by their names, nested ones by both."""
    found: dict[str, Tensor] = {}
    for name, value in arguments.items():
        if isinstance(value, dict):
            found |= {f"{name}{JOINED}{inner}": v for inner, v in _flat(value).items()}
        elif isinstance(value, Tensor):
            found[name] = value.detach().cpu().contiguous()
    return found


def _check(tensors: dict[str, Tensor], num: int, shapes: dict[str, torch.Size]) -> None:
    for name, value in tensors.items():
        if value.dim() == 0 or len(value) != num or value.shape[1:] != shapes[name]:
            raise ModelError(
                f"The pipeline passes {name} of shape {tuple(value.shape)} for {num} captions: "
                "a row for each is needed, all of one shape. Give --unconditional."
            )
