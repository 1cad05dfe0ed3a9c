"""One contract for every gate, and what is particular to each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pelap.config.run_config import GateConfig, GateKind
from pelap.method.gates import GATES, Gate, HardConcreteGate, NestedGate, build_gate, follow_budget

NUM = 6
KINDS = sorted(GATES)


def make(kind: str, *, adaptive: bool = False, num: int = NUM, **more: float) -> Gate:
    return build_built(GateConfig(kind=kind, adaptive=adaptive, **more), num)  # type: ignore[arg-type]


def build_built(config: GateConfig, num: int) -> Gate:
    gate = build_gate(config, num)
    assert gate is not None
    return gate


def scores_and_noise(batch: int = 32, num: int = NUM) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    scores = torch.randn(batch, num, generator=source)
    return scores, torch.rand(batch, num, generator=source).clamp(1e-4, 1 - 1e-4)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_between_0_and_1_in_training_and_after(kind: str, adaptive: bool):
    gate = make(kind, adaptive=adaptive)
    scores, noise = scores_and_noise()
    for training in (True, False):
        mask = gate.train(training)(scores, noise).mask
        assert mask.shape == scores.shape
        assert 0 <= float(mask.min()) <= float(mask.max()) <= 1 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 12), data=st.data())
def test_a_hardened_static_gate_opens_exactly_as_many_as_asked(
    kind: str, num: int, data: st.DataObject
):
    budget = data.draw(st.integers(1, num))
    gate = make(kind, num=num)
    scores, noise = scores_and_noise(num=num)
    gate.train()(scores, noise)
    gate.harden(budget)
    for training in (True, False):
        mask = gate.train(training)(scores, noise).mask
        assert mask.unique().tolist() in ([0.0, 1.0], [1.0])
        assert mask.sum(dim=1).tolist() == [budget] * len(scores)
        assert bool((mask == mask[0]).all())


@pytest.mark.parametrize("kind", ["sigmoid", "hard_concrete", "top_k"])
def test_hardening_keeps_the_channels_with_the_best_mean_scores(kind: str):
    gate = make(kind)
    scores = torch.tensor([[0.0, 3.0, -1.0, 2.0, 1.0, -2.0]]).repeat(4, 1)
    gate.train()(scores, torch.full_like(scores, 0.5))
    gate.harden(2)
    assert gate.kept.tolist() == [0, 1, 0, 1, 0, 0]


@pytest.mark.parametrize("kind", ["sigmoid", "hard_concrete", "top_k"])
def test_a_hardened_adaptive_gate_keeps_each_samples_own_best(kind: str):
    gate = make(kind, adaptive=True)
    scores, _ = scores_and_noise()
    gate.harden(2)
    mask = gate.eval()(scores).mask
    assert torch.equal(mask.sum(dim=1), torch.full((32,), 2.0))
    best = scores.topk(2, dim=1).indices
    assert bool((mask.gather(1, best) == 1).all())
    assert len(mask.unique(dim=0)) > 1


@pytest.mark.parametrize("kind", ["sigmoid", "hard_concrete", "top_k"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_scores_get_a_gradient_while_the_gate_learns(kind: str, adaptive: bool):
    gate = make(kind, adaptive=adaptive)
    scores, noise = scores_and_noise()
    scores.requires_grad_()
    (gate.train()(scores, noise).mask * torch.arange(1.0, NUM + 1)).sum().backward()
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) > 0


def test_an_adaptive_nested_gate_learns_its_length_from_the_scores():
    gate = make("nested", adaptive=True)
    scores, noise = scores_and_noise()
    scores.requires_grad_()
    gate.target.fill_(2)
    output = gate.train()(scores, noise)
    assert output.num_open is not None
    output.num_open.backward()
    assert scores.grad is not None
    # a higher logit of the longest prefix opens more
    assert bool((scores.grad[:, -1] > 0).all())
    lengths = gate.eval()(torch.eye(NUM) * 20).mask.sum(dim=1)
    assert lengths.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("budget", [2, 3, 4, 5])
def test_an_adaptive_nested_gate_meets_its_budget_in_the_mean(budget: int):
    gate = make("nested", adaptive=True)
    scores = torch.randn(500, NUM, generator=torch.Generator().manual_seed(0))
    gate.train()(scores, torch.rand(500, NUM, generator=torch.Generator().manual_seed(1)))
    gate.harden(budget)
    lengths = gate.eval()(scores).mask.sum(dim=1)
    assert float(lengths.mean()) == pytest.approx(budget, abs=0.1)
    assert len(lengths.unique()) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_survives_saving_and_loading(kind: str, tmp_path: Path):
    gate = make(kind)
    scores, noise = scores_and_noise()
    gate.train()(scores, noise)
    gate.harden(3)
    gate.save_pretrained(tmp_path)
    again = GATES[kind].from_pretrained(tmp_path)
    assert again.is_hard
    assert torch.equal(again.eval()(scores).mask, gate.eval()(scores).mask)
    assert list(tmp_path.glob("*.safetensors"))
    assert not list(tmp_path.glob("*.bin"))


def test_a_static_gate_uses_the_running_mean_of_its_scores_after_training():
    gate = make("sigmoid")
    gate.train()(torch.full((4, NUM), 2.0), None)
    mask = gate.eval()(torch.full((4, NUM), -5.0)).mask
    assert torch.allclose(mask, torch.sigmoid(torch.tensor(2.0)))


def test_hard_concrete_opens_as_often_as_its_formula_says():
    gate = HardConcreteGate(1, adaptive=True).train()
    scores = torch.full((200_000, 1), 0.3)
    noise = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1))
    mask, expected = gate.rule(scores, noise.clamp(1e-6, 1 - 1e-6))
    assert float((mask > 0).float().mean()) == pytest.approx(float(expected), abs=5e-3)
    assert bool((mask == 0).any())
    assert bool((mask == 1).any())


def test_nested_prefixes_are_uniform_but_for_the_whole_ones():
    gate = NestedGate(4, adaptive=False, full_fraction=0.2).train()
    noise = torch.rand(40_000, 4, generator=torch.Generator().manual_seed(2))
    lengths = gate(torch.zeros(40_000, 4), noise).mask.sum(dim=1)
    shares = [float((lengths == k).float().mean()) for k in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.2, 0.2, 0.2, 0.4], abs=0.01)


def test_nested_masks_are_prefixes_and_serve_every_budget():
    gate = make("nested")
    scores, _ = scores_and_noise()
    for budget in range(1, NUM + 1):
        gate.harden(budget)
        assert gate.eval()(scores).mask[0].tolist() == [1.0] * budget + [0.0] * (NUM - budget)


def test_the_multiplier_rises_while_too_many_are_open_and_falls_after():
    gate = make("hard_concrete", multiplier_rate=0.1)
    gate.target.fill_(3)
    noise = torch.full((8, NUM), 0.5)
    gate.train()(torch.full((8, NUM), 5.0), noise)
    risen = float(gate.multiplier)
    assert risen == pytest.approx(0.1 * 3 / NUM, rel=0.02)
    gate.num_batches.zero_()
    gate(torch.full((8, NUM), -9.0), noise)
    assert float(gate.multiplier) < risen
    before = float(gate.multiplier)
    gate.eval()(torch.full((8, NUM), 5.0))
    assert float(gate.multiplier) == before


def test_the_budget_falls_in_a_straight_line_and_then_is_exact():
    config = GateConfig(kind="top_k", adaptive=False, budget=2, warmup=0.1, harden_at=0.5)
    gate = build_built(config, NUM)
    targets = []
    for progress in (0.0, 0.1, 0.3, 0.49):
        follow_budget(gate, config, progress)
        targets.append(float(gate.target))
    assert targets == pytest.approx([6, 6, 4, 2.1])
    assert not gate.is_hard
    follow_budget(gate, config, 0.5)
    assert gate.is_hard
    assert int(gate.kept.sum()) == 2


def test_a_budget_may_harden_as_soon_as_the_warmup_ends():
    config = GateConfig(kind="top_k", adaptive=False, budget=2, warmup=0.3, harden_at=0.3)
    gate = build_built(config, NUM)
    follow_budget(gate, config, 0.2)
    assert float(gate.target) == NUM
    follow_budget(gate, config, 0.3)
    assert gate.is_hard


def test_without_a_budget_nothing_hardens():
    config = GateConfig(kind="hard_concrete")
    gate = build_built(config, NUM)
    follow_budget(gate, config, 1.0)
    assert not gate.is_hard


@pytest.mark.parametrize("num", [0, NUM + 1])
def test_an_impossible_number_of_channels_is_refused(num: int):
    with pytest.raises(ValueError, match=f"num is {num}"):
        make("top_k").harden(num)


@pytest.mark.parametrize("kind", KINDS)
def test_build_gate_makes_each_kind(kind: GateKind):
    gate = build_built(replace(GateConfig(), kind=kind, adaptive=False), 3)
    assert isinstance(gate, GATES[kind])
    assert gate.num_channels == 3
    assert not gate.adaptive
