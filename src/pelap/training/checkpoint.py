"""Resumable state as safetensors, written whole or not at all. Never a pickle."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError, in_one_line
from pelap.core.files import file_digest, read_object, write_folder
from pelap.core.notes import note_once
from pelap.training.stages import plan_stages

STATE = "state.json"
MANIFEST = "manifest.json"
"""Names the other files with their digests."""


@dataclass(frozen=True)
class TrainingState:
    """What a training changes at each step, and what it needs to go on."""

    trained: nn.Module
    """Holds all weights that are trained."""
    optimizer: torch.optim.Optimizer
    ema: EMAModel | None
    """Moving average of the weights."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The moving average in the weights' place, where there is one."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.trained.parameters())
        self.ema.copy_to(self.trained.parameters())
        yield
        self.ema.restore(self.trained.parameters())

    def keep_average(self) -> None:
        """Make the moving average the weights, and begin a new one."""
        if self.ema is not None:
            self.ema.copy_to(self.trained.parameters())
            self.ema.optimization_step = 0


def save_checkpoint(
    folder: Path, step: int, keep: int, state: TrainingState, *, is_last: bool
) -> None:
    """Write `folder`/step_N and remove all but the last `keep` checkpoints."""

    def write(partial: Path) -> None:
        save_file(_contiguous(state.trained.state_dict()), partial / "model.safetensors")
        save_file(_optimizer_tensors(state.optimizer), partial / "optimizer.safetensors")
        if state.ema is not None:
            shadow = {str(i): p for i, p in enumerate(state.ema.shadow_params)}
            save_file(_contiguous(shadow), partial / "ema.safetensors")
        ema_steps = state.ema.optimization_step if state.ema is not None else 0
        values = {"step": step, "ema_steps": ema_steps, "is_last": is_last}
        (partial / STATE).write_text(json.dumps(values))
        digests = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps({"sha256": digests}, indent=1) + "\n")

    write_folder(folder / f"step_{step}", write)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    found = [p for p in folder.glob("step_*") if p.name.removeprefix("step_").isdigit()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Steps taken before that checkpoint."""
    return int(checkpoint.name.removeprefix("step_"))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is whole; None where there is none at all.

    Raises:
        RunError: If there are checkpoints, and all are damaged.
    """
    damages = []
    for checkpoint in reversed(list_checkpoints(folder)):
        damage = _damage(checkpoint)
        if damage is None:
            if damages:
                note_once(f"{damages[0]}: going on from {checkpoint}.")
            return checkpoint
        damages.append(damage)
    if damages:
        raise RunError(f"{damages[0]}, and there is no older one that is whole.")
    return None


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if nothing is."""
    try:
        values = read_object(checkpoint / STATE, RunError)
        manifest = checkpoint / MANIFEST
        digests = read_object(manifest, RunError).get("sha256", {}) if manifest.exists() else {}
        for name, digest in dict(digests).items():
            if file_digest(checkpoint / name) != digest:
                return f"{checkpoint / name} is damaged"
    except (OSError, RunError, ValueError, TypeError):
        return f"{checkpoint} is damaged"
    if values.get("step") != step_of(checkpoint):
        return f"{checkpoint / STATE} is damaged: it says step {values.get('step')!r}"
    return None


def is_finished(run: RunFolder) -> bool:
    """Whether the run's last checkpoint is the end of the run, as long as its config makes it now.

    A finished run that was made longer, and has not written a checkpoint since, is not.
    """
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        return False
    step = step_of(checkpoints[-1])
    if not read_object(checkpoints[-1] / STATE, RunError).get("is_last", False):
        return False
    epochs = [line["epoch"] for line in run.metrics() if line["step"] == step]
    if not epochs:
        return True  # its metrics are lost: nothing says that it was made longer
    return plan_stages(run.config(), round(step / epochs[0]))[-1].last_step == step


def load_checkpoint(path: Path, state: TrainingState) -> int:
    """Restore all in place and return the step.

    Raises:
        RunError: If the checkpoint does not belong to this config.
    """
    try:
        state.trained.load_state_dict(load_file(path / "model.safetensors"))
        values = read_object(path / STATE, RunError)
        _restore_optimizer(state.optimizer, load_file(path / "optimizer.safetensors"))
        if state.ema is not None:
            shadow = load_file(path / "ema.safetensors")
            for i, parameter in enumerate(state.ema.shadow_params):
                parameter.copy_(shadow[str(i)])
            state.ema.optimization_step = values["ema_steps"]
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise RunError(
            f"Checkpoint {path} does not fit the run's config.json ({in_one_line(error)}): give "
            "that the values it was trained with."
        ) from error
    return step_of(path)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return _contiguous(
        {f"{i}.{name}": torch.as_tensor(v) for i, vs in state.items() for name, v in vs.items()}
    )


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:  # fused AdamW wants the parameter's memory format
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
