"""A run as the report needs it: read once, checked, and given a label that no other run has."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError

EVALUATION_KEYS = (
    "split", "num_pictures", "num_parameters", "diffusion_loss", "zero_latent_diffusion_loss",
    "gaussian_diffusion_loss", "reconstruction_mse_sum", "reconstruction_psnr_db",
    "masked_reconstruction_mse_sum", "masked_reconstruction_psnr_db", "mask_mean",
    "active_channels", "active_threshold", "mask_mean_by_class", "mask_histogram", "latent_std",
    "masked_latent_std", "collapse", "sampler", "versions", "machine",
)  # fmt: skip
PICTURE_KEYS = ("originals", "reconstructions", "masked_reconstructions", "samples")


@dataclass(frozen=True)
class ReportedRun:
    """What one run folder holds, in memory."""

    label: str
    """The folder's name; with its parent's where two runs share a name."""
    config: RunConfig
    evaluation: dict[str, Any]
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    pictures: dict[str, NDArray[np.uint8]]
    """uint8 (N, H, W, 3) by name, see PICTURE_KEYS."""
    diagnosis: dict[str, Any] | None = None
    """What `pelap diagnose` wrote, if it was run."""

    @property
    def has_gate(self) -> bool:
        return self.config.gate.kind != "open"

    @property
    def sparsity_weight(self) -> float:
        """λ of the paper."""
        return self.config.objective.sparsity_weight

    @property
    def kind(self) -> str:
        """`λ = 0.01`, `top_k, 4 of 8`, or `baseline` for a run without a gate."""
        gate = self.config.gate
        if gate.kind == "open":
            return "baseline"
        if gate.kind == "sigmoid" and gate.budget is None:
            return f"λ = {self.sparsity_weight:g}"
        channels = self.config.network.latent_channels
        return f"{gate.kind}, {gate.budget or channels} of {channels}"

    @property
    def title(self) -> str:
        """Label and kind: `pelap-a (λ = 0.01)`; a run called baseline is not called so twice."""
        return self.label if self.label == self.kind else f"{self.label} ({self.kind})"

    @property
    def verdict(self) -> str:
        return str(self.evaluation["collapse"]["verdict"])

    @property
    def mask_mean(self) -> list[float]:
        """Mean mask of each channel over the evaluated pictures."""
        return self.evaluation["mask_mean"]

    @property
    def mean_mask(self) -> float:
        """Mean mask over pictures and channels."""
        return sum(self.mask_mean) / len(self.mask_mean)


def read_runs(folders: Sequence[RunFolder]) -> list[ReportedRun]:
    """Read every run, in the order given.

    Raises:
        RunError: If there is none, or one is not evaluated, incomplete or damaged.
    """
    if not folders:
        raise RunError("No run given: name at least one run folder to report on.")
    names = Counter(folder.name for folder in folders)
    return [_read_run(folder, shared_name=names[folder.name] > 1) for folder in folders]


def _read_run(folder: RunFolder, shared_name: bool) -> ReportedRun:
    label = f"{folder.path.resolve().parent.name}/{folder.name}" if shared_name else folder.name
    try:
        evaluation = folder.evaluation()
        train, validation = folder.metrics("train"), folder.metrics("validation")
        diagnosis = folder.diagnosis()
    except ValueError as error:
        raise RunError(f"{folder.path} holds a file that is not JSON: {error}.") from error
    missing = [key for key in EVALUATION_KEYS if key not in evaluation]
    if missing:
        raise RunError(f"{folder.evaluation_path} lacks {missing[0]!r}: {_again(folder)}")
    pictures = _read_pictures(folder)
    return ReportedRun(label, folder.config(), evaluation, train, validation, pictures, diagnosis)


def _read_pictures(folder: RunFolder) -> dict[str, NDArray[np.uint8]]:
    try:
        with np.load(folder.pictures_path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in PICTURE_KEYS}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RunError(f"{folder.pictures_path} cannot be read: {_again(folder)}") from error


def _again(folder: RunFolder) -> str:
    return f"run `pelap evaluate {folder.path}` again."
