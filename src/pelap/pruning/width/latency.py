"""How long a step takes on this machine, as a ratio."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from pelap.families.registry import example_inputs
from pelap.measure.alternation import alternate, ratio

BATCH_SIZE = 64
ROUNDS = 7
SECONDS = 0.2
"""Of each turn at least, unless one step takes longer."""


@torch.no_grad()
def latency_ratio(network: nn.Module, original: nn.Module, batch_size: int = BATCH_SIZE) -> float:
    """Time of a denoising step over that of the original: median of alternating rounds.

    Args:
        network: To time.
        original: What it is held against, on the same device.
        batch_size: Pictures a step.
    """
    steps = [_step(one, batch_size) for one in (network, original)]
    for step in steps:
        step()
    repeats = max(1, round(SECONDS / _seconds(steps[1], 1)))
    took, of_original = alternate([partial(_seconds, step, repeats) for step in steps], ROUNDS)
    return ratio(took, of_original)[0]


def _step(network: nn.Module, batch_size: int) -> Callable[[], object]:
    inputs = example_inputs(network, batch_size)
    return lambda: network(**inputs)


def _seconds(step: Callable[[], object], repeats: int) -> float:
    _wait()
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait()
    return time.perf_counter() - begin


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
