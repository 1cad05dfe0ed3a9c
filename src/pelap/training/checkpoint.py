"""Resumable state as safetensors, written whole or not at all. Never a pickle."""

import json
import shutil
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pelap.config.run_folder import RunFolder, write_folder
from pelap.core.errors import RunError


def save_checkpoint(
    folder: Path,
    step: int,
    keep: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: EMAModel | None,
    *,
    is_last: bool = False,
) -> Path:
    """Write `folder`/step_N and remove all but the last `keep` checkpoints."""
    path = folder / f"step_{step}"

    def write(partial: Path) -> None:
        save_file(_contiguous(model.state_dict()), partial / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        if ema is not None:
            shadow = {str(i): p for i, p in enumerate(ema.shadow_params)}
            save_file(_contiguous(shadow), partial / "ema.safetensors")
        ema_steps = ema.optimization_step if ema is not None else 0
        state = {"step": step, "ema_steps": ema_steps, "is_last": is_last}
        (partial / "state.json").write_text(json.dumps(state))

    write_folder(path, write)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    found = [p for p in folder.glob("step_*") if p.name.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step_")))


def is_finished(run: RunFolder) -> bool:
    """Whether the run's last checkpoint is its end."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        return False
    return json.loads((checkpoints[-1] / "state.json").read_text()).get("is_last", False)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMAModel | None
) -> int:
    """Restore all in place and return the step.

    Raises:
        RunError: If the checkpoint does not belong to this config.
    """
    try:
        model.load_state_dict(load_file(path / "model.safetensors"))
        state = json.loads((path / "state.json").read_text())
        _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
        if ema is not None:
            shadow = load_file(path / "ema.safetensors")
            for i, parameter in enumerate(ema.shadow_params):
                parameter.copy_(shadow[str(i)])
            ema.optimization_step = state["ema_steps"]
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"Checkpoint {path} cannot be resumed ({reason}): remove it to use an older one."
        ) from error
    return state["step"]


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().contiguous().cpu()
        for index, values in state.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:  # fused AdamW wants the parameter's memory format
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
