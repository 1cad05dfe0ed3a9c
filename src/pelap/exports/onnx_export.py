"""A model's networks as ONNX files, each compared with torch before anything is kept."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

from pelap import __version__
from pelap.core.errors import ModelError
from pelap.core.output import write_output
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
) -> dict[str, Any]:
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
    record: dict[str, Any] = {}

    def write(folder: Path) -> None:
        networks = {graph.name: _write_network(graph, folder, int8) for graph in graphs}
        record.update(_describe(model, graphs, networks))
        if model.scheduler_config:
            (folder / SCHEDULER).parent.mkdir()
            (folder / SCHEDULER).write_text(json.dumps(model.scheduler_config, indent=2) + "\n")
        conditions = [_conditions(g, model.num_channels) for g in graphs if g.name == "denoiser"]
        if any(conditions):
            save_file(conditions[0], folder / CONDITIONS)
        (folder / DESCRIPTION).write_text(json.dumps(record, indent=2) + "\n")

    write_output(output, write, overwrite=overwrite)
    return record


def _write_network(graph: Graph, folder: Path, int8: bool) -> dict[str, Any]:
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
    found: dict[str, Any] = {
        "file": path.name,
        "class": graph.class_name,
        "inputs": describe_values(inputs, graph.shared),
        "outputs": describe_values(graph.run(inputs), graph.shared),
        "num_bytes": file_size(path),
        "max_difference": differences,
    }
    if int8 and graph.name != "encoder":
        found["int8"] = write_int8(graph, path)
    return found


def _describe(
    model: LoadedModel, graphs: list[Graph], networks: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    import onnx
    import onnxruntime

    latents = networks["encoder"]["outputs"]["latents"]["shape"]
    return {
        "format": "onnx",
        "name": model.name,
        "opset": OPSET,
        "latent_shape": latents[1:],
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


def describe_export(record: dict[str, Any]) -> str:
    """A few lines a network: what it takes and gives, how large it is, how far from torch."""
    lines = []
    for name, network in record["networks"].items():
        differences, size = network["max_difference"], network["num_bytes"] / 1e6
        lines += [
            f"{name:10} {network['class']}",
            f"{'':10} takes    {_values(network['inputs'])}",
            f"{'':10} gives    {_values(network['outputs'])}",
            f"{'':10} {size:.2f} MB, at most {max(differences.values()):.1e} from torch "
            f"(batches of {' and '.join(differences)})",
        ]
        if "int8" in network:
            int8 = network["int8"]
            lines.append(
                f"{'':10} int8     {int8['num_bytes'] / 1e6:.2f} MB, {int8['size_ratio']:.0%} of "
                f"that; {int8['relative_difference']:.1%} of the output's standard deviation from "
                "torch"
            )
    return "\n".join(lines)


def _values(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {'×'.join(map(str, value['shape']))} {value['dtype']}"
        for name, value in values.items()
    )
