"""Write a changed model as an ordinary diffusers folder, everything else of it untouched."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import save_file
from torch import nn

from pelap.core.json_values import JsonObject
from pelap.core.notes import note
from pelap.core.output import write_output
from pelap.models.card import whole_card
from pelap.models.kept_units import KEPT_UNITS, write_kept_units
from pelap.models.loaded import LoadedModel

OURS = ("model_index.json", "README.md", "metrics.jsonl", KEPT_UNITS, "__pycache__")
"""Written anew, of what was done before, or of no use."""
WEIGHTS = (
    ".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".onnx", ".onnx_data", ".gguf",
    ".msgpack", ".h5", ".index.json",
)  # fmt: skip
"""Endings of files with weights."""


@dataclass(frozen=True)
class ChangedModel:
    """What takes the place of a loaded model's networks."""

    autoencoder: nn.Module
    denoiser: nn.Module | None
    card: str
    """Markdown for the model card, in front of what the card said before."""
    record: JsonObject
    """What was done, for the model's history."""
    files: Mapping[str, str | bytes]
    """Further files by their path in the folder, e.g. a report as JSON."""
    keeps_autoencoder: bool = False
    """Whether the autoencoder is as it was, so that the history belongs to the denoiser."""

    def note_in_config(self, history: list[JsonObject]) -> None:
        """Write the history, this step last, into the config of what changed."""
        part: Any = self.denoiser if self.keeps_autoencoder else self.autoencoder
        if hasattr(part, "register_to_config"):
            part.register_to_config(_pelap=[*history, self.record])


def save_model(
    model: LoadedModel, changed: ChangedModel, output: Path, *, overwrite: bool = False
) -> None:
    """Write the folder, see `write_output`."""

    def write(folder: Path) -> None:
        if model.parts:
            _write_others(model, folder)
        changed.note_in_config(model.history)
        for name, part in (
            (model.autoencoder_name, changed.autoencoder),
            (model.denoiser_name, changed.denoiser),
        ):
            if part is not None:
                _save_part(part, folder / name, model.variants.get(name))
        for name, content in changed.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if model.kept_units is not None and changed.denoiser is not None:
            (folder / KEPT_UNITS).write_bytes(write_kept_units(model.kept_units))
        card = whole_card(model, changed.card)
        (folder / "README.md").write_text(card, encoding="utf-8")

    write_output(output, write, overwrite=overwrite)


def _write_others(model: LoadedModel, folder: Path) -> None:
    """All but the two networks: tokenizers, text encoders, scheduler, the pipeline's class."""
    own = {model.autoencoder_name, model.denoiser_name, ""}
    (folder / "model_index.json").write_text(json.dumps(model.parts, indent=2) + "\n")
    if model.memory is not None:
        for name, part in model.memory.components.items():
            if name not in own and part is not None:
                part.save_pretrained(folder / name)
        return
    assert model.folder is not None
    for name, part in model.parts.items():
        source = model.folder / name
        if isinstance(part, list) and name not in own and source.is_dir() and part[0] is not None:
            shutil.copytree(source, folder / name)
    if model.config is None:
        _copy_beside(model, folder)
    if model.parts["_class_name"] == "LDMPipeline" and model.config is not None:
        scheduler: Any = DDIMScheduler.from_config(dict(model.scheduler_config))
        scheduler.save_pretrained(folder / "scheduler")


def _copy_beside(model: LoadedModel, folder: Path) -> None:
    """What lies beside the parts, such as a licence or pictures of the card; no weights, which are
    of the model as it was. What is left out is said."""
    assert model.folder is not None
    left_out = []
    for source in sorted(model.folder.iterdir()):
        name = source.name
        if name in model.parts or name in OURS or name.startswith("."):
            continue
        found = [path.name for path in source.rglob("*")] if source.is_dir() else [name]
        if any(path.endswith(WEIGHTS) for path in found):
            left_out.append(name)
        elif source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy2(source, folder / name)
    if left_out:
        note(f"left out, since they belong to the model as it was: {', '.join(left_out)}")


def _save_part(part: Any, folder: Path, variant: str | None) -> None:
    if not isinstance(part, ConfigMixin):
        save_file(part.state_dict(), folder / "model.safetensors")
        return
    save: Callable[..., None] = part.save_pretrained  # type: ignore[attr-defined]
    save(folder, safe_serialization=True, variant=variant)
