"""A model's networks as ONNX files, each compared with torch before anything is kept."""

import json
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

from pelap import __version__
from pelap.core.errors import ModelError
from pelap.core.output import write_output
from pelap.exports.export_record import ExportRecord, NetworkRecord
from pelap.exports.graphs import Graph, Tensors, build_graphs, flatten
from pelap.exports.int8 import write_int8
from pelap.exports.onnx_files import (
    OPSET,
    check_extra,
    compare,
    describe_values,
    file_size,
    write_graph,
)
from pelap.families.registry import denoiser_family
from pelap.models.loaded import LoadedModel

MAX_DIFFERENCE = 1e-3
"""From torch, in any output of any network."""
DESCRIPTION = "export.json"
CONDITIONS = "conditions.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def export_model(
    model: LoadedModel,
    output: Path,
    *,
    side: int | None = None,
    int8: bool = False,
    overwrite: bool = False,
) -> ExportRecord:
    """Write encoder.onnx, denoiser.onnx and decoder.onnx, in float32, for any number of pictures.

    The statistics between autoencoder and denoiser are part of the graphs: the encoder gives the
    latents that the denoiser takes, and the decoder takes those. The scheduler's config lies
    beside them, and example conditions where the denoiser asks for more than latents and timestep.

    Args:
        model: What to export; it stays as it is.
        output: The new folder. Nothing is left there if a check fails.
        side: Height and width of the latents; by default what the model was made for.
        int8: Also write denoiser and decoder with 8-bit weights, and what that loses.
        overwrite: Whether a folder that pelap made may be replaced.

    Returns:
        The content of export.json.

    Raises:
        ConfigError: If the extra `onnx` is missing, or the networks cannot run at that side.
        ModelError: If a class cannot be exported, or a file differs from torch by more than
            MAX_DIFFERENCE.
    """
    check_extra()
    graphs = build_graphs(model, side)
    written: list[ExportRecord] = []

    def write(folder: Path) -> None:
        networks = {graph.name: _write_network(graph, folder, int8) for graph in graphs}
        written.append(_describe(model, networks))
        if model.scheduler_config:
            (folder / SCHEDULER).parent.mkdir()
            (folder / SCHEDULER).write_text(json.dumps(model.scheduler_config, indent=2) + "\n")
        conditions = [_conditions(g, model.num_channels) for g in graphs if g.name == "denoiser"]
        if any(conditions):
            save_file(conditions[0], folder / CONDITIONS)
        (folder / DESCRIPTION).write_text(json.dumps(written[0], indent=2) + "\n")

    write_output(output, write, overwrite=overwrite)
    return written[0]


def _write_network(graph: Graph, folder: Path, int8: bool) -> NetworkRecord:
    path = folder / f"{graph.name}.onnx"
    write_graph(graph, path)
    differences = compare(graph, path)
    worst = max(differences.values())
    if not worst <= MAX_DIFFERENCE:
        raise ModelError(
            f"{path.name} differs from torch by {worst:.1e}, more than {MAX_DIFFERENCE:.0e}: "
            f"{graph.class_name} cannot be exported; nothing was written."
        )
    inputs = graph.inputs(1, 0)
    record: NetworkRecord = {
        "file": path.name,
        "class": graph.class_name,
        "inputs": describe_values(inputs, graph.shared),
        "outputs": describe_values(graph.run(inputs), graph.shared),
        "num_bytes": file_size(path),
        "max_difference": differences,
    }
    if int8 and graph.name != "encoder":
        record["int8"] = write_int8(graph, path)
    return record


def _describe(model: LoadedModel, networks: dict[str, NetworkRecord]) -> ExportRecord:
    import onnx
    import onnxruntime

    _batch, *sides = networks["encoder"]["outputs"]["latents"]["shape"]
    return {
        "format": "onnx",
        "name": model.name,
        "opset": OPSET,
        "latent_shape": [int(side) for side in sides],
        "packed": model.denoiser is not None and denoiser_family(model.denoiser).packing.side > 1,
        "networks": networks,
        "versions": {
            "pelap": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def _conditions(denoiser: Graph, channels: int) -> Tensors:
    """What the denoiser takes for one picture beside timestep and latents."""
    (name, latents), *others = flatten(denoiser.inputs(1, 0)).items()
    values = {other: value for other, value in others if other != "timestep"}
    if latents.dim() == 4 and latents.shape[1] > channels:  # inpainting: mask and picture
        return {name: latents} | values
    return values
