"""The paper's networks: counts, shapes, and their life as diffusers models."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pelap.method.paper_autoencoder import PaperAutoencoder
from pelap.method.paper_denoiser import PaperUNet


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_are_the_papers():
    assert num_parameters(PaperAutoencoder()) == 2_127_499
    assert num_parameters(PaperUNet()) == 820_748


@pytest.mark.parametrize("channels", [1, 4, 16])
def test_shapes(channels: int):
    autoencoder = PaperAutoencoder(channels, 8)
    latents = autoencoder.encode(torch.zeros(2, 3, 16, 24)).latent_dist.mean
    assert latents.shape == (2, channels, 4, 6)
    assert autoencoder.decode(latents).sample.shape == (2, 3, 16, 24)
    denoiser = PaperUNet(channels, 8, 16)
    assert denoiser(latents, torch.tensor([0, 999])).sample.shape == latents.shape


def test_decoder_ends_in_tanh():
    images = PaperAutoencoder(4, 8).decode(100 * torch.randn(2, 4, 4, 4)).sample
    assert images.abs().max() <= 1


def test_time_embedding_is_the_papers_sinusoid():
    timesteps = torch.tensor([0.0, 1.0, 500.0, 999.0])
    frequencies = np.exp(-math.log(10000) * np.arange(64) / 63)
    angles = timesteps.numpy()[:, None] * frequencies[None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(PaperUNet().sinusoid(timesteps).numpy(), expected, atol=2e-4)


def test_a_single_timestep_serves_the_whole_batch():
    denoiser, noisy = PaperUNet(4, 8, 16), torch.randn(3, 4, 4, 4)
    one = denoiser(noisy, torch.tensor(7)).sample
    torch.testing.assert_close(one, denoiser(noisy, torch.tensor([7, 7, 7])).sample)


def test_first_norm_erases_the_scale_of_each_latent_channel():
    denoiser, noisy = PaperUNet(4, 8, 16), torch.randn(2, 4, 8, 8)
    scale = torch.tensor([0.5, 2.0, 10.0, 30.0])[None, :, None, None]
    timestep = torch.tensor(10)
    torch.testing.assert_close(
        denoiser(noisy, timestep).sample,
        denoiser(scale * noisy + 3, timestep).sample,
        atol=1e-3,
        rtol=1e-3,
    )


@pytest.mark.parametrize("network", [PaperAutoencoder(4, 8), PaperUNet(4, 8, 16)])
def test_save_and_load(network: Any, tmp_path: Path):
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path, use_safetensors=True)
    assert dict(loaded.config)["latent_channels"] == 4
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
