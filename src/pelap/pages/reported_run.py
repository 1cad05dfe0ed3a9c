"""A run as the report needs it: read once, checked, and given a label that no other run has."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError
from pelap.core.json_values import JsonObject
from pelap.core.records import from_json_dict
from pelap.measure.diagnosis_record import Diagnosis
from pelap.measure.evaluation_record import Evaluation, read_evaluation

PICTURE_KEYS = ("originals", "reconstructions", "masked_reconstructions", "samples")


@dataclass(frozen=True)
class ReportedRun:
    """What one run folder holds, in memory."""

    label: str
    """The folder's name; with its parent's where two runs share a name."""
    config: RunConfig
    evaluation: Evaluation
    train: Sequence[JsonObject]
    validation: Sequence[JsonObject]
    pictures: dict[str, NDArray[np.uint8]]
    """uint8 (N, H, W, 3) by name, see PICTURE_KEYS."""
    diagnosis: Diagnosis | None = None
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
        return self.evaluation.collapse.verdict

    @property
    def mean_mask(self) -> float:
        """Mean mask over pictures and channels."""
        return sum(self.evaluation.mask_mean) / len(self.evaluation.mask_mean)


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
        evaluation, diagnosis = read_evaluation(folder), folder.diagnosis()
        train, validation = folder.metrics("train"), folder.metrics("validation")
    except ValueError as error:
        raise RunError(f"{folder.path} holds a file that is not JSON: {error}.") from error
    if diagnosis is not None:
        diagnosis = from_json_dict(Diagnosis, diagnosis, str(folder.diagnosis_path), RunError)
    try:
        with np.load(folder.pictures_path, allow_pickle=False) as arrays:
            pictures = {key: arrays[key] for key in PICTURE_KEYS}
    except Exception as error:  # zipfile, zlib and numpy share no error for damage
        again = f"run `pelap evaluate {folder.path}` again."
        raise RunError(f"{folder.pictures_path} cannot be read: {again}") from error
    return ReportedRun(label, folder.config(), evaluation, train, validation, pictures, diagnosis)
