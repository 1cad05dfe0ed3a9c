"""The whole method: schedule, where the mask acts, where gradients go."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput

from pelap.config.presets import as_baseline, kl16, kl16_small, paper, pelap, pelap_small, tiny
from pelap.config.run_config import ObjectiveConfig, Prediction, RunConfig
from pelap.method.forward_process import build_scheduler
from pelap.method.losses import channel_mean
from pelap.method.step import forward_step, make_draws
from pelap.method.system import LatentDiffusion, build_system, latent_shape

CPU = torch.device("cpu")


def images_and_draws(config, size: int = 3):
    images = torch.rand(size, 3, config.data.size, config.data.size) * 2 - 1
    return images, make_draws(config, size, "draws", 0, CPU)


def test_schedule_is_the_papers_linear_one():
    scheduler = build_scheduler(paper().noise)
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), expected, rtol=1e-4)


def test_same_seed_same_networks_and_global_generator_untouched():
    before = torch.random.get_rng_state()
    first: Any = build_system(tiny())
    second: Any = build_system(tiny())
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    config = replace(tiny(), run=replace(tiny().run, seed=1))
    other: Any = build_system(config)
    assert not torch.equal(first.denoiser.out.weight, other.denoiser.out.weight)


def test_decoder_sees_latents_before_the_mask():
    config = tiny()
    system: Any = build_system(config)
    images, draws = images_and_draws(config)
    with_open_mask = system(images, draws)
    torch.nn.init.constant_(system.importance.out.bias, -20.0)
    with_closed_mask = system(images, draws)
    assert with_closed_mask.gate.mask.max() < 1e-6
    torch.testing.assert_close(with_open_mask.reconstruction, with_closed_mask.reconstruction)
    zeros = torch.zeros_like(draws.noise)
    noisy, _ = system.noised(zeros, draws.noise, draws.timesteps, with_open_mask.gate.mask)
    blind = system.predict_noise(noisy, draws.timesteps)
    torch.testing.assert_close(with_closed_mask.prediction, blind, atol=1e-4, rtol=1e-4)


def test_diffusion_loss_trains_the_encoder_only_through_an_open_mask():
    config = tiny()
    config = replace(
        config, objective=replace(config.objective, reconstruction_weight=0.0, kl_weight=0.0)
    )
    system: Any = build_system(config)
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
    system: Any = build_system(config)
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


def cured(**more: object) -> RunConfig:
    config = tiny()
    objective = ObjectiveConfig(
        sparsity_weight=0.0,
        decoder_sees_mask=True,
        encoder_diffusion_weight=0.0,
        open_channels_only=True,
    )
    return replace(
        config,
        network=replace(config.network, normalize_latents=True),
        gate=replace(config.gate, kind="top_k", adaptive=False),
        objective=replace(objective, **more),
    )


def test_decoder_can_see_the_masked_latents():
    system: Any = build_system(cured()).eval()
    images, draws = images_and_draws(tiny())
    system.gate.harden(1)
    with torch.no_grad():
        output = system(images, draws)
        masked = output.latent.latents * output.gate.mask[:, :, None, None]
        torch.testing.assert_close(output.reconstruction, system.decode(masked))


@pytest.mark.parametrize(("weight", "reaches"), [(0.0, False), (0.5, True), (1.0, True)])
def test_the_diffusion_loss_reaches_encoder_and_gate_as_far_as_it_may(weight: float, reaches: bool):
    config = cured(reconstruction_weight=0.0, kl_weight=0.0, encoder_diffusion_weight=weight)
    system: Any = build_system(config)
    images, draws = images_and_draws(config)
    forward_step(system, images, draws, config).losses.total_loss.backward()
    gradient = system.autoencoder.to_mean.weight.grad
    assert (gradient is not None and float(gradient.abs().sum()) > 0) == reaches
    assert float(system.denoiser.out.weight.grad.abs().sum()) > 0


def test_the_gradient_at_the_encoder_is_scaled():
    images, draws = images_and_draws(tiny())

    def gradient(weight: float) -> torch.Tensor:
        config = cured(reconstruction_weight=0.0, kl_weight=0.0, encoder_diffusion_weight=weight)
        system: Any = build_system(config)
        forward_step(system, images, draws, config).losses.total_loss.backward()
        return system.autoencoder.to_mean.weight.grad

    torch.testing.assert_close(gradient(0.25), 0.25 * gradient(1.0), atol=1e-7, rtol=1e-3)


def test_closed_channels_reach_the_denoiser_as_zeros_where_only_open_ones_are_noised():
    system: Any = build_system(cured()).eval()
    system.gate.harden(2)
    _, draws = images_and_draws(tiny())
    latents = torch.randn_like(draws.noise)
    noisy, _ = system.noised(latents, draws.noise, draws.timesteps, system.mask(latents).mask)
    assert noisy.abs().sum(dim=(0, 2, 3)).count_nonzero() == 2


def test_noise_prediction_is_the_same_from_noise_and_from_velocity():
    config = cured()
    config = replace(config, noise=replace(config.noise, prediction="v_prediction"))
    system: Any = build_system(config)
    images, draws = images_and_draws(config)
    output = system.eval()(images, draws)

    class Perfect(torch.nn.Module):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> UNet2DOutput:
            return UNet2DOutput(sample=output.target)

    system.denoiser = Perfect()
    mask = output.gate.mask
    noisy, _ = system.noised(output.latent.latents, draws.noise, draws.timesteps, mask)
    torch.testing.assert_close(
        system.predict_noise(noisy, draws.timesteps), draws.noise, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("preset", [pelap, kl16, pelap_small, kl16_small])
def test_our_presets_build_and_take_a_step(preset: Callable[[], RunConfig]):
    config = preset()
    config = replace(
        config, network=replace(config.network, autoencoder_channels=8, denoiser_channels=32)
    )
    system: Any = build_system(config)
    images, draws = images_and_draws(config)
    losses = forward_step(system, images, draws, config).losses
    losses.total_loss.backward()
    assert torch.isfinite(losses.total_loss)


def test_latents_may_have_three_axes_behind_their_channels():
    system = build_system(cured(open_channels_only=True)).eval()
    assert system.normalizer is not None
    system.normalizer.train()
    source = torch.Generator().manual_seed(0)
    flat = torch.randn(2, 4, 4, 4, generator=source)
    video = flat.unflatten(2, (2, 2))  # the same values, (2, 4, 2, 2, 4)
    noise, mask = torch.randn(flat.shape, generator=source), torch.tensor([[1.0, 0, 1, 1]] * 2)
    timesteps = torch.tensor([3, 500])
    normalizers = [copy.deepcopy(system.normalizer) for _ in range(2)]
    pairs = [
        (flat, video),
        [normalizer(x) for normalizer, x in zip(normalizers, (flat, video), strict=True)],
        [system.normalizer.normalize_logvar(x) for x in (flat, video)],
        [system.mask(x).mask for x in (flat, video)],
        *zip(
            system.noised(flat, noise, timesteps, mask),
            system.noised(video, noise.unflatten(2, (2, 2)), timesteps, mask),
            strict=True,
        ),
        [channel_mean(x, mask) for x in (flat, video)],
    ]
    for two_axes, three_axes in pairs:
        torch.testing.assert_close(three_axes.reshape(two_axes.shape), two_axes)
    assert noised_is_zero_where_closed(system, video, timesteps, mask)


def noised_is_zero_where_closed(
    system: LatentDiffusion, latents: torch.Tensor, timesteps: torch.Tensor, mask: torch.Tensor
) -> bool:
    noisy, _ = system.noised(latents, torch.ones_like(latents), timesteps, mask)
    return bool((noisy[:, 1] == 0).all() and (noisy[:, 0] != 0).all())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noised_is_the_textbooks_mixture_with_its_target(prediction: Prediction):
    config = replace(tiny(), noise=replace(tiny().noise, prediction=prediction))
    system = build_system(config)
    latents, noise = torch.randn(2, 2, 4, 4, 4)
    timesteps = torch.tensor([0, 999])
    signal = system.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    size = (1 - signal.square()).sqrt()
    noisy, target = system.noised(latents, noise, timesteps)
    torch.testing.assert_close(noisy, signal * latents + size * noise)
    velocity = signal * noise - size * latents
    torch.testing.assert_close(target, noise if prediction == "epsilon" else velocity)
