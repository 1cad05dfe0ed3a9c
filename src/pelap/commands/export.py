"""`pelap export`: a model's networks as files that need no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pelap.commands.verb_settings import (
    AnyInt,
    JsonResult,
    JsonSettings,
    ModelName,
    Output,
    Switch,
)
from pelap.exports.export_record import ExportRecord, NetworkRecord, describe_export

if TYPE_CHECKING:
    from pelap.commands.any_model import AnyModel


@dataclass(frozen=True, kw_only=True)
class ExportSettings(JsonSettings):
    """What `pelap export` takes."""

    model: ModelName
    """A run, a diffusers folder or a hub id."""
    format: Literal["onnx"] = "onnx"
    """Of the files."""
    output: Output
    """The new folder."""
    int8: Switch = False
    """Also denoiser and decoder with 8-bit weights."""
    size: AnyInt = None
    """Side of the latents (what the model was made for)."""
    overwrite: Switch = False
    """Replace what pelap made at --output."""


@dataclass(frozen=True)
class Exported(JsonResult):
    """An export, each network compared with torch; the values are those of export.json."""

    values: ExportRecord
    folder: Path

    @property
    def networks(self) -> dict[str, NetworkRecord]:
        """By name: class, inputs and outputs with shapes, bytes, and the difference from torch."""
        return self.values["networks"]

    def describe(self) -> str:
        return describe_export(self.values)


def export(
    model: "AnyModel",
    output: str | Path,
    *,
    size: int | None = None,
    int8: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write encoder.onnx, denoiser.onnx and decoder.onnx, for any number of pictures.

        pelap.export(model, "onnx")

    Args:
        model: What to export; it stays as it is.
        output: The new folder. Nothing is left there if a check fails.
        size: Height and width of the latents; by default what the model was made for.
        int8: Also write denoiser and decoder with 8-bit weights.
        overwrite: Whether a folder that pelap made may be replaced.

    Returns:
        What was written, and how far each network is from torch (largest absolute difference).

    Raises:
        ConfigError: If the extra `onnx` is missing, or the networks cannot run at that side.
        ModelError: If a class cannot be exported, or a file differs too much from torch.
    """
    from pelap.commands.any_model import as_model
    from pelap.core.output import claimed
    from pelap.exports.onnx_export import export_model

    output = Path(output)
    with claimed(output, overwrite):
        values = export_model(as_model(model), output, side=size, int8=int8, overwrite=overwrite)
    return Exported(values, output)


def run(settings: ExportSettings) -> Exported:
    """Export the model."""
    how = {name: getattr(settings, name) for name in ("size", "int8", "overwrite")}
    return export(settings.model, settings.output, **how)
