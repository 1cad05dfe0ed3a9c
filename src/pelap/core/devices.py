"""Where networks compute, and in which of several processes."""

import os

import torch
from accelerate import PartialState
from accelerate.utils.environment import parse_flag_from_env

from pelap.core.errors import ConfigError

CHOSEN = "ACCELERATE_TORCH_DEVICE"
"""accelerate's name for it in the environment."""


def process_state() -> PartialState:
    """This process among those of the run, and its device, as accelerate's `Accelerator` has them.

    Made first and without the flag, PartialState takes each of several processes on the CPU for the
    only one, and so does every Accelerator after it.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def torch_device() -> torch.device:
    """The device that accelerate would train on."""
    return torch.device(process_state().device or "cpu")


def choose_device(name: str) -> None:
    """Compute on this device in all that follows, in this process and those that it starts.

    Args:
        name: As torch names it: cpu, cuda, cuda:1, mps.

    Raises:
        ConfigError: If there is no such device here, or this process is one of several, whose
            devices their launcher gives out; or networks compute elsewhere already.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("--device: the launcher of several processes says where each computes.")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        here = ", ".join(_devices())
        raise ConfigError(f"--device {name}: torch finds none here; there is {here}.") from error
    before = os.environ.get(CHOSEN)
    os.environ[CHOSEN] = name
    if torch_device() != device:
        del os.environ[CHOSEN]
        if before is not None:
            os.environ[CHOSEN] = before
        raise ConfigError(
            f"--device {name}: this process computes on {process_state().device} already."
        )


def _devices() -> list[str]:
    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])]
