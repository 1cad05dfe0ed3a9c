"""Every loss against numpy or a closed form."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from pelap.config.presets import paper
from pelap.config.run_config import ObjectiveConfig
from pelap.method.forward_process import build_scheduler
from pelap.method.gates import GateOutput
from pelap.method.losses import (
    budget_loss,
    channel_mean,
    diffusion_loss,
    gaussian_diffusion_loss,
    kl_loss,
    objective,
    psnr_db,
    reconstruction_loss,
    sparsity_loss,
)
from pelap.method.system import LatentBatch, SystemOutput


def test_squared_errors_against_numpy():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = np.mean((a.numpy() - b.numpy()) ** 2)
    assert reconstruction_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert diffusion_loss(a, b).item() == pytest.approx(expected, rel=1e-5)


@given(st.floats(-3, 3), st.floats(-4, 4))
def test_kl_against_torch_distributions(mean: float, logvar: float):
    expected = kl_divergence(Normal(mean, math.exp(logvar / 2)), Normal(0.0, 1.0))
    actual = kl_loss(torch.full((2, 4, 3, 3), mean), torch.full((2, 4, 3, 3), logvar))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def test_kl_is_zero_for_the_prior():
    assert kl_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).item() == 0


def test_sparsity_is_the_mean_mask():
    assert sparsity_loss(torch.tensor([[0.0, 1.0], [0.5, 0.1]])).item() == pytest.approx(0.4)


@pytest.mark.parametrize(("std", "expected"), [(1.0, 0.276), (0.1, 0.041), (0.01, 0.0023)])
def test_gaussian_loss_is_that_of_the_papers_schedule(std: float, expected: float):
    alphas = build_scheduler(paper().noise).alphas_cumprod
    loss = gaussian_diffusion_loss(torch.full((4,), std), alphas).item()
    assert loss == pytest.approx(expected, rel=0.03)


def test_gaussian_loss_is_what_the_best_linear_predictor_reaches():
    alphas, std = torch.tensor([0.3]), 0.7
    source = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 200_000, generator=source, dtype=torch.float64)
    noisy = math.sqrt(0.3) * std * latents + math.sqrt(0.7) * noise
    slope = (noisy * noise).mean() / noisy.square().mean()
    measured = (slope * noisy - noise).square().mean().item()
    assert gaussian_diffusion_loss(torch.tensor([std]), alphas).item() == pytest.approx(
        measured, rel=0.02
    )


def make_output() -> tuple[Any, torch.Tensor, torch.Tensor]:
    images, noise = torch.rand(2, 3, 8, 8), torch.randn(2, 4, 2, 2)
    latent = LatentBatch(torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2))
    gate = GateOutput(torch.rand(2, 4))
    return (
        SystemOutput(latent, gate, torch.rand(2, 3, 8, 8), torch.randn(2, 4, 2, 2), noise),
        images,
        noise,
    )


def test_objective_adds_up_as_the_paper_says():
    output, images, noise = make_output()
    losses: Any = objective(output, images, ObjectiveConfig(sparsity_weight=0.05), gated=True)
    expected = (
        np.mean((output.reconstruction.numpy() - images.numpy()) ** 2)
        + 0.001 * losses.kl_loss.item()
        + np.mean((output.prediction.numpy() - noise.numpy()) ** 2)
        + 0.05 * output.gate.mask.numpy().mean()
    )
    assert losses.total_loss.item() == pytest.approx(expected, rel=1e-5)


def test_each_weight_acts_on_its_own_term():
    output, images, _ = make_output()
    nothing = ObjectiveConfig(0, 0, 0, 0)
    assert objective(output, images, nothing, gated=True).total_loss.item() == 0
    for index, term in enumerate(
        ["reconstruction_loss", "kl_loss", "diffusion_loss", "sparsity_loss"]
    ):
        weights: list[Any] = [0.0] * 4
        weights[index] = 2.0
        losses: Any = objective(output, images, ObjectiveConfig(*weights), gated=True)
        expected = 2 * losses.named()[term].item()
        assert losses.total_loss.item() == pytest.approx(expected, rel=1e-6)


def test_baseline_has_no_sparsity_term():
    output, images, _ = make_output()
    losses: Any = objective(output, images, ObjectiveConfig(), gated=False)
    assert losses.sparsity_loss is None
    assert "sparsity_loss" not in losses.named()


def test_open_channels_only_averages_over_open_channels_as_constants():
    output, images, noise = make_output()
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]], requires_grad=True)
    output = replace(output, gate=GateOutput(mask))
    config = ObjectiveConfig(open_channels_only=True, sparsity_weight=0.0)
    losses: Any = objective(output, images, config, gated=True)
    error = (output.prediction.numpy() - noise.numpy()) ** 2
    expected = np.concatenate([error[0, [0, 2]], error[1, [0]]]).mean()
    assert losses.diffusion_loss.item() == pytest.approx(expected, rel=1e-5)
    assert not losses.diffusion_loss.requires_grad
    kl = kl_loss(output.latent.mean, output.latent.logvar, mask)
    assert losses.kl_loss.item() == pytest.approx(kl.item())
    assert losses.kl_loss.item() != pytest.approx(
        kl_loss(output.latent.mean, output.latent.logvar).item()
    )


def test_a_mean_over_no_open_channel_is_zero():
    error = torch.ones(2, 4, 3, 3)
    assert float(channel_mean(error, torch.zeros(2, 4))) == 0


def test_closing_channels_cannot_lower_a_loss_over_open_ones():
    values = torch.rand(5, 4, 2, 2)
    half, whole = torch.full((5, 4), 0.01), torch.ones(5, 4)
    assert channel_mean(values, half).item() == pytest.approx(channel_mean(values, whole).item())


def test_budget_loss_is_the_multiplier_times_the_gap():
    multiplier, num_open = torch.tensor(0.7), torch.tensor(6.5, requires_grad=True)
    loss = budget_loss(num_open, 4.0, multiplier, 8)
    assert loss.item() == pytest.approx(0.7 * 2.5 / 8)
    loss.backward()
    assert num_open.grad is not None
    assert num_open.grad.item() == pytest.approx(0.7 / 8)


def test_a_stage_leaves_out_the_terms_it_does_not_make():
    output, images, _ = make_output()
    first = objective(replace(output, prediction=None), images, ObjectiveConfig(), gated=False)
    assert set(first.named()) == {"total_loss", "reconstruction_loss", "kl_loss"}
    second = objective(replace(output, reconstruction=None), images, ObjectiveConfig(), gated=False)
    assert set(second.named()) == {"total_loss", "diffusion_loss"}


def test_psnr():
    assert psnr_db(4.0) == pytest.approx(0)
    assert psnr_db(0.04) == pytest.approx(20)
