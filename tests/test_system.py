"""The whole method: schedule, where the mask acts, where gradients go."""

from dataclasses import replace

import numpy as np
import torch

from pelap.presets import as_baseline, paper, tiny
from pelap.system import build_scheduler, build_system, latent_shape
from pelap.training.step import forward_step, make_draws

CPU = torch.device("cpu")


def images_and_draws(config, size: int = 3):
    images = torch.rand(size, 3, config.data.size, config.data.size) * 2 - 1
    return images, make_draws(config, size, "draws", 0, CPU)


def test_schedule_is_the_papers_linear_one():
    scheduler = build_scheduler(paper().noise)
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), expected, rtol=1e-4)


def test_forward_noising_mixes_by_the_schedule():
    system = build_system(tiny())
    latents, noise = torch.randn(2, 2, 4, 4, 4)
    timesteps = torch.tensor([0, 999])
    alpha = system.scheduler.alphas_cumprod[timesteps][:, None, None, None]
    expected = alpha.sqrt() * latents[:2] + (1 - alpha).sqrt() * noise[:2]
    actual = system.scheduler.add_noise(latents[:2], noise[:2], timesteps)
    torch.testing.assert_close(actual, expected)


def test_same_seed_same_networks_and_global_generator_untouched():
    before = torch.random.get_rng_state()
    first, second = build_system(tiny()), build_system(tiny())
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    config = replace(tiny(), run=replace(tiny().run, seed=1))
    other = build_system(config)
    assert not torch.equal(first.denoiser.out.weight, other.denoiser.out.weight)


def test_decoder_sees_latents_before_the_mask():
    config = tiny()
    system = build_system(config)
    images, draws = images_and_draws(config)
    with_open_mask = system(images, draws)
    torch.nn.init.constant_(system.importance.out.bias, -20.0)
    with_closed_mask = system(images, draws)
    assert with_closed_mask.gate.mask.max() < 1e-6
    torch.testing.assert_close(with_open_mask.reconstruction, with_closed_mask.reconstruction)
    zeros = torch.zeros_like(draws.noise)
    blind = system.predict_noise(zeros, draws.noise, draws.timesteps)
    torch.testing.assert_close(with_closed_mask.prediction, blind, atol=1e-4, rtol=1e-4)


def test_diffusion_loss_trains_the_encoder_only_through_an_open_mask():
    config = tiny()
    config = replace(
        config, objective=replace(config.objective, reconstruction_weight=0.0, kl_weight=0.0)
    )
    system = build_system(config)
    images, draws = images_and_draws(config)

    def encoder_gradient() -> float:
        system.zero_grad()
        forward_step(system, images, draws, config).losses.total_loss.backward()
        return system.autoencoder.to_mean.weight.grad.norm().item()

    open_gradient = encoder_gradient()
    torch.nn.init.constant_(system.importance.out.bias, -20.0)
    assert open_gradient > 0
    assert encoder_gradient() < 1e-4 * open_gradient


def test_baseline_has_mask_one_and_no_predictor():
    config = as_baseline(tiny())
    system = build_system(config)
    assert system.importance is None
    assert system.gate is None
    output = system(*images_and_draws(config))
    assert torch.equal(output.gate.mask, torch.ones(3, 4))


def test_latent_shape():
    assert latent_shape(paper()) == (4, 8, 8)


def test_draws_of_a_part_are_the_part_of_the_draws():
    draws = make_draws(tiny(), 8, "draws", 5, CPU)
    part = draws.part(slice(2, 5))
    assert torch.equal(part.noise, draws.noise[2:5])
    assert torch.equal(make_draws(tiny(), 8, "draws", 5, CPU).noise, draws.noise)
    assert not torch.equal(make_draws(tiny(), 8, "draws", 6, CPU).noise, draws.noise)
