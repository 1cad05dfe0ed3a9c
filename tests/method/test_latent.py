"""Predictor and gates."""

import pytest
import torch

from pelap.config.run_config import GateConfig
from pelap.method.gates import SigmoidGate, build_gate
from pelap.method.importance import ImportancePredictor


def test_predictor_has_the_papers_292_parameters_and_starts_at_0_953():
    importance = ImportancePredictor()
    assert sum(p.numel() for p in importance.parameters()) == 292
    mask = SigmoidGate()(importance(torch.randn(5, 4, 8, 8))).mask
    torch.testing.assert_close(mask, torch.full((5, 4), 1 / (1 + torch.e**-3)))
    assert mask.mean().item() == pytest.approx(0.953, abs=5e-4)


def test_scores_depend_on_the_channel_means_alone():
    importance = ImportancePredictor(3, 8)
    torch.nn.init.normal_(importance.out.weight)
    latents = torch.randn(4, 3, 8, 8)
    rearranged = latents.flip(2).transpose(2, 3)
    torch.testing.assert_close(importance(latents), importance(rearranged))
    assert not torch.allclose(importance(latents), importance(latents + 1))


def test_scores_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert ImportancePredictor()(torch.randn(2, 4, 8, 8)).dtype == torch.float32


def test_gate_of_each_kind():
    assert build_gate(GateConfig(kind="open"), 4) is None
    assert isinstance(build_gate(GateConfig(kind="sigmoid"), 4), SigmoidGate)
