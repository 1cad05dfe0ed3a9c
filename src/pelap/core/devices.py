"""Where networks compute."""

import torch
from accelerate import Accelerator


def torch_device() -> torch.device:
    """The device that accelerate would train on."""
    return Accelerator().device
