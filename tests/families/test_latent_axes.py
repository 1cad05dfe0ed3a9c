"""Latents with any number of axes behind the channels: what the method computes is the same."""

from typing import Any

import pytest
import torch

from pelap.families.conditioned import Condition, ConditionedDenoiser
from pelap.families.latent_axes import axes_of, by_channel, by_picture
from pelap.method.forward_process import flow_process
from pelap.method.importance import ImportancePredictor
from pelap.method.latent_map import LatentMap, LatentMoments, keep_channels
from pelap.method.losses import diffusion_loss
from pelap.method.normalizer import LatentNormalizer
from pelap.method.system import LatentDiffusion

CHANNELS = 4
AXES = [(6,), (4, 4), (2, 3, 4)]


def latents_of(axes: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(2, CHANNELS, *axes, generator=torch.Generator().manual_seed(0))


def flat_map() -> LatentMap:
    source = torch.Generator().manual_seed(1)
    factor = torch.randn(CHANNELS, CHANNELS, generator=source).double()
    mean = torch.randn(CHANNELS, generator=source).double()
    moments = LatentMoments(mean, factor @ factor.T, torch.ones(CHANNELS).double())
    return keep_channels([0, 2], moments, "linear")


@pytest.mark.parametrize("axes", AXES)
def test_values_stand_beside_their_latents(axes: tuple[int, ...]) -> None:
    latents = latents_of(axes)
    ones = [1] * len(axes)
    assert by_channel(torch.ones(CHANNELS), latents).shape == (CHANNELS, *ones)
    assert by_channel(torch.ones(2, CHANNELS), latents).shape == (2, CHANNELS, *ones)
    assert by_picture(torch.ones(2), latents).shape == (2, 1, *ones)
    assert latents.mean(dim=axes_of(latents)).shape == (2, CHANNELS)


@pytest.mark.parametrize("axes", AXES)
def test_all_axes_are_positions(axes: tuple[int, ...]) -> None:
    """Each gives what it gives for the same positions in a row."""
    latents = latents_of(axes)
    row = latents.flatten(2)[..., None]  # (B, C, n, 1)
    latent_map, normalizer = flat_map(), LatentNormalizer(CHANNELS).train()
    flat_normalizer = LatentNormalizer(CHANNELS).train()
    found = [latent_map.substitute(latents), normalizer(latents), normalizer.inverse(latents)]
    expected = [latent_map.substitute(row), flat_normalizer(row), flat_normalizer.inverse(row)]
    predictor = ImportancePredictor(CHANNELS)
    torch.testing.assert_close(predictor(latents), predictor(row))
    weights = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 0]])
    loss, row_loss = (diffusion_loss(one, 0 * one, weights) for one in (latents, row))
    torch.testing.assert_close(loss, row_loss)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.flatten(2), other.flatten(2))


class Zero(torch.nn.Module):
    """A denoiser that predicts nothing, and one argument for its latents."""

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, return_dict: bool):
        return (0 * hidden_states,)


@pytest.mark.parametrize("axes", AXES)
def test_noise_comes_to_latents_of_any_axes(axes: tuple[int, ...]) -> None:
    latents, mask = latents_of(axes), torch.tensor([[1.0, 0, 1, 1]]).expand(2, -1)
    denoiser = ConditionedDenoiser(Zero(), Condition({}, "hidden_states", is_flow=True))
    scheduler, timesteps = flow_process(), torch.tensor([10, 700])
    identity: Any = torch.nn.Identity()
    system = LatentDiffusion(identity, denoiser, None, None, scheduler)
    noisy, _ = system.noised(latents, torch.zeros_like(latents), timesteps, mask)
    assert noisy.shape == latents.shape
    assert not noisy[:, 1].any()
    assert system.predict_noise(noisy, timesteps).shape == latents.shape
