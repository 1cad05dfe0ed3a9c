"""Multiply-accumulates of one call, counted without computing anything."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pelap.families.registry import example_inputs


@torch.no_grad()
def count_call_macs(call: Callable[[], object]) -> int:
    """Of convolutions and matrix products: half of what torch's FlopCounterMode counts.

    Attention is computed without its fused kernels, as torch counts nothing for that of the CPU.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


def count_denoiser_macs(denoiser: nn.Module, side: int | None = None) -> int:
    """Of one denoising step of one picture, on the meta device.

    Args:
        denoiser: Of a known class.
        side: Height and width of the latents; by default what the model was made for.

    Raises:
        ModelError: If the class is unknown.
    """
    inputs = example_inputs(denoiser, 1, side)
    has_weights = any(not parameter.is_meta for parameter in denoiser.parameters())
    weightless = copy.deepcopy(denoiser).to("meta") if has_weights else denoiser
    moved = {name: _to_meta(value) for name, value in inputs.items()}
    return count_call_macs(lambda: weightless(**moved))


def _to_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    return {k: _to_meta(v) for k, v in value.items()} if isinstance(value, dict) else value
