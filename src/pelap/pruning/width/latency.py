"""How long a step takes on this machine, as a ratio."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from pelap.networks.example_inputs import example_inputs

BATCH_SIZE = 16
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
    ratios = []
    for turn in range(ROUNDS):
        order = (0, 1) if turn % 2 else (1, 0)
        took = {which: _seconds(steps[which], repeats) for which in order}
        ratios.append(took[0] / took[1])
    return median(ratios)


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
