"""Multiply-accumulates of one call, counted without computing anything."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pelap.core.errors import ModelError, foreign_errors
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
        ModelError: If the class is unknown, or cannot be run.
    """
    return count_call_macs(_on_meta(denoiser, side))


def _on_meta(denoiser: nn.Module, side: int | None) -> Callable[[], object]:
    """What runs the denoiser on its example inputs, all without values."""
    inputs = {name: _to_meta(value) for name, value in example_inputs(denoiser, 1, side).items()}
    has_weights = any(not parameter.is_meta for parameter in denoiser.parameters())
    weightless = copy.deepcopy(denoiser).to("meta") if has_weights else denoiser

    def run() -> None:
        kind = type(denoiser).__name__
        with foreign_errors(lambda reason: ModelError(f"The {kind} cannot be run: {reason}")):
            weightless(**inputs)

    return run


def _to_meta(value: object) -> object:
    if isinstance(value, Tensor):
        return value.to("meta")
    return {k: _to_meta(v) for k, v in value.items()} if isinstance(value, dict) else value


class PartCounts:
    """MACs of smaller networks of a denoiser's class, from one count of the denoiser.

    A layer's MACs go with the number of its weights, as the same places pass it; what an attention
    computes beside its layers goes with the width of its queries.

    Args:
        denoiser: Whose layers' names are among those of the smaller networks.
    """

    @torch.no_grad()
    def __init__(self, denoiser: nn.Module):
        run = _on_meta(denoiser, None)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        counts = counter.get_flop_counts()
        root = type(denoiser).__name__
        totals = {
            name: sum(counts.get(f"{root}.{name}".rstrip("."), {}).values()) / 2
            for name, _ in denoiser.named_modules()
        }
        own = dict(totals)
        for name, total in totals.items():
            owner = name
            while owner and total:  # lists of layers are never called themselves
                owner = owner.rpartition(".")[0]
                if totals[owner]:
                    own[owner] -= total
                    break
        modules = dict(denoiser.named_modules())
        self.per_size = {name: macs / _size(modules[name]) for name, macs in own.items() if macs}

    def of(self, network: nn.Module) -> int:
        """MACs of a smaller network of the class."""
        modules = dict(network.named_modules())
        sizes = ((name, _size(modules[name])) for name in self.per_size if name in modules)
        return round(sum(self.per_size[name] * size for name, size in sizes))


def _size(module: Any) -> int:
    if isinstance(getattr(module, "weight", None), Tensor):
        return module.weight.numel()
    return module.to_q.out_features if hasattr(module, "to_q") else 1
