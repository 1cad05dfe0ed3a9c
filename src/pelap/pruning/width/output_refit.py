"""Fit a network's last layer by least squares, so that it gives what another one gave."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DAMPING = 0.1
"""How much the old weights count, against the mean square of the layer's inputs."""


@contextmanager
def calls_of(layer: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of the layer, of every call in the block."""
    calls: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((inputs[0], output))

    handle = layer.register_forward_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


class OutputFit:
    """Least squares for the weights of a layer, damped towards those that it has.

    With inputs x (features and a 1 for the bias) and wanted outputs y, the change of the weights W
    solves (Σ x xᵀ + λ) ΔW = Σ x (y − Wᵀx)ᵀ; λ is DAMPING times the mean of Σ x xᵀ's diagonal.

    Args:
        layer: Linear, or a convolution in two dimensions without groups; left as it is.
    """

    def __init__(self, layer: nn.Module):
        self.layer: Any = layer
        features = self.layer.weight[0].numel() + 1
        device = self.layer.weight.device
        self.gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        outputs = len(self.layer.weight)
        self.cross = torch.zeros(features, outputs, dtype=torch.float64, device=device)

    @staticmethod
    def can(layer: nn.Module) -> bool:
        """Whether this is a layer that can be fitted."""
        found: Any = layer
        if isinstance(layer, nn.Conv2d):
            return found.groups == 1 and found.padding_mode == "zeros" and found.bias is not None
        return isinstance(layer, nn.Linear) and found.bias is not None

    def add(self, inputs: Tensor, given: Tensor, wanted: Tensor) -> None:
        """Count a call: what entered the layer, what it gave, and what it should have."""
        rows = self._rows(inputs)  # (n, features)
        missing = (wanted - given).double()
        missing = missing.flatten(2).mT if isinstance(self.layer, nn.Conv2d) else missing
        self.gram += rows.T @ rows
        self.cross += rows.T @ missing.flatten(0, -2)  # (features, outputs)

    def solve(self) -> tuple[Tensor, Tensor]:
        """The weight and bias that fit best, in the shapes and precision of the layer's."""
        damped = self.gram.clone()
        damped.diagonal()[:-1] += DAMPING * self.gram.diagonal()[:-1].mean()
        change = torch.linalg.lstsq(damped, self.cross).solution  # (features, outputs)
        weight, bias = self.layer.weight, self.layer.bias
        fitted = weight.double() + change[:-1].T.reshape(weight.shape)
        return fitted.to(weight), (bias.double() + change[-1]).to(bias)

    def _rows(self, inputs: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            padding: Any = layer.padding
            patches = functional.unfold(
                inputs.double(), layer.kernel_size, layer.dilation, padding, layer.stride
            )  # (B, D·k², places)
            inputs = patches.mT
        rows = inputs.double().flatten(0, -2)
        return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
