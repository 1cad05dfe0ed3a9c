"""8-bit weights: linear layers compute in 8 bits too, convolutions only store them so.

On a CPU onnxruntime multiplies matrices faster in 8 bits, but convolves slower. So weights of
convolutions become floats again when the file is opened; see docs/export.md for the figures.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pelap.exports.export_record import Int8Record
from pelap.exports.graphs import Graph
from pelap.exports.onnx_files import file_size, open_session, quiet, run_session

if TYPE_CHECKING:
    from onnx import GraphProto

LINEAR = ("MatMul", "Gemm")
OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1}
"""The axis of a convolution's weights that counts its outputs (those of one group)."""
LARGEST = 127
CHECKED_BATCH = 5


def write_int8(graph: Graph, path: Path) -> Int8Record:
    """Write NAME.int8.onnx beside NAME.onnx, and measure what that loses.

    Args:
        graph: What the file was exported from.
        path: The float32 file.

    Returns:
        `file`, `num_bytes`, `size_ratio` to the float32 file, and `relative_difference`: the root
        mean square of the difference from torch on random inputs over the standard deviation of
        what torch says.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name(f"{graph.name}.int8.onnx")
    external = Path(f"{path}.data").exists()
    with quiet():
        quantize_dynamic(
            path, target, op_types_to_quantize=list(LINEAR), weight_type=QuantType.QInt8,
            use_external_data_format=external,
        )  # fmt: skip
    model = onnx.load(target)
    _round_convolutions(model.graph)
    for leftover in path.parent.glob(f"{target.name}*"):
        leftover.unlink()
    onnx.save(
        model, target, save_as_external_data=external, location=f"{target.name}.data",
        size_threshold=1024,
    )  # fmt: skip
    size = file_size(target)
    return {
        "file": target.name,
        "num_bytes": size,
        "size_ratio": size / file_size(path),
        "relative_difference": _relative_difference(graph, target),
    }


def _round_convolutions(graph: "GraphProto") -> None:
    """Store the weights of convolutions in 8 bits, with one scale an output channel."""
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in OUTPUT_AXES]
    axes = {node.input[1]: OUTPUT_AXES[node.op_type] for node in convolutions}
    for name, axis in axes.items():
        if name not in weights:
            continue
        values = numpy_helper.to_array(weights[name])
        others = tuple(i for i in range(values.ndim) if i != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        scales = np.where(largest > 0, largest, 1) / LARGEST
        rounded = np.round(values / scales).astype(np.int8)
        stored = {f"{name}.int8": rounded, f"{name}.scale": scales.reshape(-1).astype(np.float32)}
        graph.initializer.remove(weights[name])
        graph.initializer.extend(numpy_helper.from_array(x, part) for part, x in stored.items())
        to_float = helper.make_node("DequantizeLinear", list(stored), [name], axis=axis)
        graph.node.insert(0, to_float)


def _relative_difference(graph: Graph, path: Path) -> float:
    inputs = graph.inputs(CHECKED_BATCH, 1)
    found = run_session(open_session(path, torch.get_num_threads()), inputs)
    ((name, expected),) = graph.run(inputs).items()
    return float((found[name] - expected).square().mean().sqrt() / expected.std())
