"""What is timed: a model in torch, a model in onnxruntime, or an export."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pelap.core.errors import ConfigError, ModelError, in_one_line
from pelap.core.json_values import JsonObject
from pelap.exports.onnx_export import export_model
from pelap.exports.runtime import OnnxNetworks
from pelap.measure.counts import UNKNOWN, Counts, count_model
from pelap.measure.sampling_time import TorchNetworks
from pelap.models.loaded import LoadedModel
from pelap.models.precision import DTYPES, Precision

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Subject:
    """One model, ready to be timed."""

    name: str
    shape: Shape
    """(C, h, w) of its latents."""
    scheduler_config: JsonObject
    counts: Counts
    model: LoadedModel | OnnxNetworks = field(repr=False)

    @property
    def backend(self) -> str:
        """What computes."""
        return "onnxruntime" if isinstance(self.model, OnnxNetworks) else "torch"

    def networks(
        self, precision: Precision, *, compiled: bool, device: torch.device
    ) -> TorchNetworks | OnnxNetworks:
        """Its networks; an export knows one precision and no compiler."""
        if isinstance(self.model, OnnxNetworks):
            return self.model
        return TorchNetworks(self.model, self.shape[1], precision, compiled=compiled, device=device)

    def weight_bytes(self, precision: Precision) -> int | None:
        """Bytes of what sampling needs: denoiser and decoder."""
        parts = (self.counts.parameters["denoiser"], self.counts.parameters["decoder"])
        if isinstance(self.model, OnnxNetworks) or None in parts:
            return None
        return DTYPES[precision].itemsize * sum(part or 0 for part in parts)


@contextmanager
def at_side(name: str, side: int) -> Iterator[None]:
    """Turn what a network says of latents it cannot take into one line that names the option.

    Raises:
        ConfigError: For every ModelError, RuntimeError, ValueError or AssertionError inside.
    """
    try:
        yield
    except (ModelError, RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"{name} cannot sample latents of --size {side}: {in_one_line(error)}"
        ) from error


def make_subject(
    model: LoadedModel | OnnxNetworks, backend: str, side: int | None, folder: Path
) -> Subject:
    """A model for a backend.

    Args:
        model: An export is computed by onnxruntime whatever the backend.
        backend: torch or onnxruntime.
        side: Height and width of the latents; by default what the model was made for.
        folder: Where a model is exported to for onnxruntime.

    Raises:
        ConfigError: If it cannot run at that side, or the extra `onnx` is missing.
        ModelError: If there is no denoiser, or a class is unknown.
    """
    if isinstance(model, OnnxNetworks):
        if "denoiser" not in model.description["networks"]:
            raise ModelError(
                f"{model.name} was exported without a denoiser: nothing to sample with."
            )
        shape = model.latent_shape
        if side not in (None, shape[1]):
            raise ModelError(
                f"--size is {side}: {model.name} was exported for latents of {shape[1]}."
            )
        return Subject(model.name, shape, model.scheduler_config, UNKNOWN, model)
    if model.denoiser is None:
        raise ModelError(f"{model.name} has no denoiser: there is nothing to sample with.")
    model.check()
    side = model.latent_side if side is None else side
    with at_side(model.name, side):
        counts = count_model(model, side)
    computing: LoadedModel | OnnxNetworks = model
    if backend != "torch":
        export_model(model, folder, side=side)
        computing = OnnxNetworks(folder, torch.get_num_threads())
    shape = (model.num_channels, side, side)
    return Subject(model.name, shape, model.scheduler_config, counts, computing)
