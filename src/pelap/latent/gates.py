"""Gates: rules from scores to a mask."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from pelap.config import GateConfig


@dataclass(frozen=True)
class GateOutput:
    """What a gate made of a batch of scores."""

    mask: Tensor
    """(B, C) in [0, 1]."""


class Gate(nn.Module, ABC):
    """Scores (B, C) → mask (B, C) in [0, 1]."""

    @abstractmethod
    def forward(self, scores: Tensor) -> GateOutput:
        """The mask of each sample in the batch."""


@final
class SigmoidGate(Gate):
    """mask = sigmoid(score): the paper's gate, never exactly 0 or 1."""

    def forward(self, scores: Tensor) -> GateOutput:
        return GateOutput(mask=torch.sigmoid(scores))


def build_gate(config: GateConfig) -> Gate | None:
    """The gate of that kind; None for `open`, whose mask is 1 without asking anybody."""
    return None if config.kind == "open" else SigmoidGate()
