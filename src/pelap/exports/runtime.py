"""Exported networks behind plain torch tensors, to sample and to time them."""

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from pelap.core.errors import ModelError
from pelap.exports.export_record import ExportRecord
from pelap.exports.graphs import Tensors
from pelap.exports.onnx_export import CONDITIONS, DESCRIPTION, SCHEDULER
from pelap.exports.onnx_files import check_extra, open_session, run_session
from pelap.families.family import DenoiserFamily
from pelap.families.registry import denoiser_family

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxNetworks:
    """The networks of a folder that `export_model` wrote, on onnxruntime's CPU provider.

    Each file is opened when it is first needed.

    Args:
        folder: What holds export.json.
        num_threads: Of each network; by default all cores.
        int8: Take the 8-bit files where there are such.

    Raises:
        ConfigError: If the extra `onnx` is missing.
        ModelError: If the folder holds no export.
    """

    name: str
    latent_shape: tuple[int, int, int]
    """(C, h, w) of the latents that `predict` and `decode` take."""
    scheduler_config: dict[str, object]
    """Of the diffusers scheduler that the model came with; empty if it came with none."""

    def __init__(self, folder: Path, num_threads: int | None = None, *, int8: bool = False):
        check_extra()
        if not (folder / DESCRIPTION).is_file():
            raise ModelError(
                f"{folder} holds no {DESCRIPTION}: write it with `pelap export MODEL --output DIR`."
            )
        self.description: ExportRecord = json.loads((folder / DESCRIPTION).read_text())
        scheduler = folder / SCHEDULER
        self.name = self.description["name"]
        channels, height, width = self.description["latent_shape"]
        self.latent_shape = (channels, height, width)
        self.scheduler_config = json.loads(scheduler.read_text()) if scheduler.is_file() else {}
        self._folder = folder
        self._num_threads = num_threads
        self._int8 = int8
        self._sessions: dict[str, InferenceSession] = {}
        conditions = folder / CONDITIONS
        self._conditions = load_file(conditions) if conditions.is_file() else {}

    def encode(self, images: Tensor) -> Tensor:
        """Means (B, C, h, w) of the latents of images (B, 3, H, W) in [-1, 1]."""
        return run_session(self._session("encoder"), {"images": images})["latents"]

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) of latents (B, C, h, w)."""
        return run_session(self._session("decoder"), {"latents": latents})["images"]

    def predict(self, latents: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """What the denoiser says of noisy latents, (B, C, h, w).

        Args:
            latents: (B, C, h, w), float32.
            timestep: Of the scheduler, 0-dimensional.
            conditions: Inputs by the names in export.json, batch first; the example conditions
                stand in for those that are not given.

        Raises:
            ModelError: If there is no denoiser, or it takes no input of such a name.
        """
        session = self._session("denoiser")
        wanted = self.description["networks"]["denoiser"]["inputs"]
        unknown = [name for name in conditions if name not in list(wanted)[1:]]
        if unknown:
            raise ModelError(f"The denoiser takes no {unknown[0]}, but {', '.join(wanted)}.")
        inputs = self._inputs(latents, timestep) | conditions
        found = run_session(session, inputs)["prediction"]
        found = self._family.packing.unpack(found, *self.latent_shape[1:])
        return found[:, : self.latent_shape[0]]

    def _inputs(self, latents: Tensor, timestep: Tensor) -> Tensors:
        """What the denoiser takes, with the example conditions."""
        wanted = self.description["networks"]["denoiser"]["inputs"]
        family, num = self._family, len(latents)
        inputs = {
            name: x if name in family.shared_inputs else x.expand(num, *x.shape[1:])
            for name, x in self._conditions.items()
        }
        first, packed = next(iter(wanted)), family.packing.pack(latents)
        if first in inputs:  # inpainting: mask and picture stand behind the latents
            packed = torch.cat([packed, inputs[first][:, packed.shape[1] :]], dim=1)
        steps = timestep if family.timestep_divisor == 1 else timestep / family.timestep_divisor
        dtype = getattr(torch, wanted["timestep"]["dtype"])
        return inputs | {first: packed, "timestep": steps.to(dtype).repeat(num)}

    @cached_property
    def _family(self) -> DenoiserFamily:
        return denoiser_family(self.description["networks"]["denoiser"]["class"])

    def _session(self, name: str) -> "InferenceSession":
        if name not in self.description["networks"]:
            raise ModelError(f"{self._folder} holds no {name}.")
        if name not in self._sessions:
            network = self.description["networks"][name]
            file = network["int8"]["file"] if self._int8 and "int8" in network else network["file"]
            self._sessions[name] = open_session(self._folder / file, self._num_threads)
        return self._sessions[name]
