"""A last layer fitted by least squares gives again what was wanted."""

import pytest
import torch
from torch import nn

from pelap.pruning.width import output_refit
from pelap.pruning.width.output_refit import OutputFit, calls_of


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_layer_becomes_the_one_whose_outputs_are_wanted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_refit, "DAMPING", 1e-9)
    source = torch.Generator().manual_seed(0)
    if kind == "linear":
        given: nn.Module = nn.Linear(5, 3)
        wanted: nn.Module = nn.Linear(5, 3)
        inputs = [torch.randn(2, 20, 5, generator=source) for _ in range(2)]
    else:
        given, wanted = (nn.Conv2d(3, 2, 3, padding=1) for _ in range(2))
        inputs = [torch.randn(2, 3, 8, 8, generator=source) for _ in range(2)]
    fit = OutputFit(given)
    with torch.no_grad():
        for one in inputs:
            fit.add(one, given(one), wanted(one))
        weight, bias = fit.solve()
    torch.testing.assert_close(weight, wanted.weight.data, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]
    torch.testing.assert_close(bias, wanted.bias.data, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]


def test_a_direction_that_no_input_has_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_refit, "DAMPING", 1e-3)
    layer, wanted = nn.Linear(4, 2), nn.Linear(4, 2)
    inputs = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0))
    inputs[..., 3] = 0
    fit = OutputFit(layer)
    with torch.no_grad():
        fit.add(inputs, layer(inputs), wanted(inputs))
    weight, _ = fit.solve()
    torch.testing.assert_close(weight[:, 3], layer.weight[:, 3].data)
    assert (weight[:, :3] - wanted.weight[:, :3]).abs().max() < 0.05


def test_what_has_no_closed_form_here_is_left() -> None:
    assert OutputFit.can(nn.Linear(2, 2))
    assert OutputFit.can(nn.Conv2d(2, 2, 3))
    assert not OutputFit.can(nn.Linear(2, 2, bias=False))
    assert not OutputFit.can(nn.Conv2d(2, 2, 3, groups=2))
    assert not OutputFit.can(nn.Conv3d(2, 2, 3))


def test_calls_are_heard_within_the_block_only() -> None:
    layer = nn.Linear(2, 2)
    with calls_of(layer) as calls:
        output = layer(torch.ones(1, 2))
    layer(torch.zeros(1, 2))
    assert len(calls) == 1
    assert calls[0][1] is output
