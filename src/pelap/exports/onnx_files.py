"""One network as an ONNX file: written, opened and compared with torch."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pelap.core.errors import ConfigError, ModelError, in_one_line
from pelap.exports.export_record import TensorRecord
from pelap.exports.graphs import Graph, Tensors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18
"""The lowest that torch's exporter writes without converting."""
EXPORT_BATCH = 2
"""Pictures in the traced batch; 1 would be taken for a constant."""
CHECKED_BATCHES = (1, 5)
MOST_BYTES_INSIDE = 2_000_000_000
"""Of weights in one file: protobuf's limit is 2 GiB."""


def check_extra() -> None:
    """Refuse to begin without the packages of the extra `onnx`.

    Raises:
        ConfigError: One line that says how to install them.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is not installed: pip install 'pelap[onnx]'.")


def write_graph(graph: Graph, path: Path) -> None:
    """Export a network with a dynamic batch; weights beyond 2 GB go to a file beside it.

    Raises:
        ModelError: If torch cannot export it.
    """
    inputs = graph.inputs(EXPORT_BATCH, 0)
    batch = torch.export.Dim("batch")
    shapes = {name: {} if name in graph.shared else {0: batch} for name in inputs}
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph.module, kwargs={"inputs": inputs}, dynamo=True,
                dynamic_shapes={"inputs": shapes},
                input_names=list(inputs), output_names=list(graph.run(inputs)),
                opset_version=OPSET, verbose=False, custom_translation_table=_translations(),
                optimize=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise ModelError(
                f"torch.onnx cannot export the {graph.name} {graph.class_name}: "
                f"{in_one_line(error.__cause__ or error)}"
            ) from error
        assert program is not None
        from onnxscript import optimizer

        # Not all of torch's `optimize`: onnxscript 0.7 also drops the addition of constants below
        # 1e-8, so that Sana's attention divides by zero.
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # source files and lines of this machine
    size = sum(p.numel() * p.element_size() for p in graph.module.parameters())
    program.save(path, external_data=size > MOST_BYTES_INSIDE)


def file_size(path: Path) -> int:
    """Bytes of an ONNX file, with those of the weights beside it."""
    parts = (path, Path(f"{path}.data"))
    return sum(part.stat().st_size for part in parts if part.exists())


def _translations() -> dict[Any, Any]:
    """How to write what onnxscript 0.7 gets wrong: torch leaves a dimension of more than 1 alone
    when told to squeeze it (PixArt does that)."""
    from onnxscript import opset18 as op

    def squeeze(x: Any, dim: int) -> Any:
        axes: Any = op.Constant(value_ints=[dim])
        return op.Squeeze(x, axes) if x.shape and x.shape[dim] == 1 else op.Identity(x)

    return {torch.ops.aten.squeeze.dim: squeeze}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep remarks of torch.onnx and of the quantiser about their own inside from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # torch.export copies tree specs of a class that torch itself deprecates
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            # every input has the same batch: that is what we asked for
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            yield
    finally:
        logging.disable(before)


def open_session(path: Path, num_threads: int | None = None) -> "InferenceSession":
    """An onnxruntime session on the CPU, on all cores unless told otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # 8-bit weights of convolutions become floats once, not at each call
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_session(session: "InferenceSession", inputs: Tensors) -> Tensors:
    """Outputs of an ONNX file by name."""
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}


def compare(graph: Graph, path: Path) -> dict[str, float]:
    """Largest absolute difference from torch on random inputs, by number of pictures."""
    session = open_session(path, torch.get_num_threads())
    worst = {}
    for num_pictures in CHECKED_BATCHES:
        inputs = graph.inputs(num_pictures, 1)
        found = run_session(session, inputs)
        away = [(found[name] - x).abs().max() for name, x in graph.run(inputs).items()]
        worst[str(num_pictures)] = float(torch.stack(away).max())  # not a number stays so
    return worst


def describe_values(values: Tensors, shared: tuple[str, ...]) -> dict[str, TensorRecord]:
    """Shape and dtype of each tensor; `batch` stands for the number of pictures, which `shared`
    ones do not have."""

    return {
        name: {
            "shape": list(x.shape) if name in shared else ["batch", *x.shape[1:]],
            "dtype": str(x.dtype).removeprefix("torch."),
        }
        for name, x in values.items()
    }
