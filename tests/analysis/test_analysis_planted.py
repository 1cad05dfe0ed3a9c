"""Planted autoencoders, linear and with known answers, and each measurement on them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.analysis.analysis_record import AnalysisSettings
from pelap.analysis.channel_analysis import analyze
from pelap.analysis.decoding import DecoderMetric, LeaveOneOut, measure_maps
from pelap.analysis.elimination import conditional_costs, eliminate_by_moments
from pelap.analysis.learned import learn_scores, stand_ins
from pelap.analysis.statistics import measure_statistics
from pelap.config.run_config import NoiseConfig
from pelap.data.pictures import InMemoryPictures, Pictures
from pelap.measure.encoded_batches import Batches
from pelap.method.forward_process import build_scheduler
from pelap.method.latent_map import keep_channels
from pelap.method.system import LatentDiffusion

PATCH = 12
"""Values of a 2 × 2 patch of an RGB picture: what becomes one position of the latents."""
SETTINGS = AnalysisSettings(
    num_pictures=None, batch_size=16, num_search=32, num_curve=32, learned_steps=30
)
BASIS = torch.linalg.qr(torch.randn(PATCH, PATCH, generator=torch.Generator().manual_seed(5)))[0]
"""Columns are orthonormal directions of patches."""


class LinearAutoencoder(nn.Module):
    """Latents = encoder · patch, patch = decoder · latents, with a constant variance."""

    def __init__(self, encoder: Tensor, decoder: Tensor, logvar: float = -20.0):
        super().__init__()
        self.encoder, self.decoder = nn.Parameter(encoder), nn.Parameter(decoder)
        self.logvar = logvar

    def encode(self, images: Tensor) -> SimpleNamespace:
        patches = F.pixel_unshuffle(images, 2)
        mean = torch.einsum("cp,bphw->bchw", self.encoder, patches)
        moments = torch.cat([mean, torch.full_like(mean, self.logvar)], dim=1)
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        patches = torch.einsum("pc,bchw->bphw", self.decoder, latents)
        return SimpleNamespace(sample=F.pixel_shuffle(patches, 2))


class ScalingDenoiser(nn.Module):
    """Predicts each channel of its input times a weight."""

    def __init__(self, weights: Sequence[float]):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, noisy: Tensor, timesteps: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=noisy * self.weights[:, None, None])


def to_system(autoencoder: nn.Module, denoiser: nn.Module | None = None) -> LatentDiffusion:
    one, two = cast(Any, autoencoder), cast(Any, denoiser)
    return LatentDiffusion(one, two, None, None, build_scheduler(NoiseConfig()))


def with_useless_channel() -> LinearAutoencoder:
    """Channel 3 varies most, and the decoder does not read it."""
    encoder, decoder = BASIS[:, :4].T.clone(), BASIS[:, :4].clone()
    encoder[3] *= 20
    decoder[:, 3] = 0
    return LinearAutoencoder(encoder, decoder)


def with_duplicate() -> LinearAutoencoder:
    """Channel 3 is channel 0 again, and the decoder reads both."""
    encoder, decoder = BASIS[:, [0, 1, 2, 0]].T.clone(), BASIS[:, [0, 1, 2, 0]].clone()
    decoder[:, [0, 3]] /= 2
    return LinearAutoencoder(encoder, decoder)


def with_mixed_channels() -> LinearAutoencoder:
    """Correlated channels of unequal weight whose decoding is an orthogonal projection."""
    mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(7)) + 2 * torch.eye(4)
    return LinearAutoencoder(mixing @ BASIS[:, :4].T, BASIS[:, :4] @ torch.linalg.inv(mixing))


def make_pictures(num: int = 96, num_classes: int = 2) -> InMemoryPictures:
    """Random patches that vary most along the first directions of BASIS."""
    source = torch.Generator().manual_seed(1)
    widths = 40 * 0.8 ** torch.arange(PATCH)
    patches = torch.randn(num, 4, 4, PATCH, generator=source) * widths @ BASIS.T + 120
    pixels = F.pixel_shuffle(patches.permute(0, 3, 1, 2), 2).round().clamp(0, 255)
    names = tuple(f"class {index}" for index in range(num_classes))
    return InMemoryPictures(torch.arange(num) % num_classes, names, pixels.to(torch.uint8))


def all_batches(pictures: Pictures, batch_size: int = 16) -> Batches:
    return Batches(pictures, torch.arange(len(pictures)), batch_size, 0)


def test_moments_kl_and_activity_have_their_closed_forms():
    pictures, variance = make_pictures(40), 0.25
    model = with_mixed_channels()
    model.logvar = math.log(variance)
    found = measure_statistics(to_system(model), all_batches(pictures))
    mean = model.encode(pictures.pixels / 127.5 - 1).latent_dist.mean.double()
    flat = mean.transpose(0, 1).flatten(1)
    kl = 0.5 * (flat.square() + variance - 1 - math.log(variance)).sum(dim=1) / 40
    torch.testing.assert_close(found.kl, kl.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.moments.mean, flat.mean(dim=1).detach(), rtol=0, atol=0.05)
    expected = torch.cov(flat, correction=0) + variance * torch.eye(4)
    torch.testing.assert_close(found.moments.covariance, expected.detach(), rtol=0.2, atol=0.03)
    posterior_variance = torch.full_like(found.kl, variance)
    torch.testing.assert_close(
        found.moments.posterior_variance, posterior_variance, rtol=1e-5, atol=0
    )
    activity = mean.var(dim=0, correction=0).mean(dim=(1, 2))
    torch.testing.assert_close(found.activity, activity.detach(), rtol=1e-5, atol=0)


def test_the_moments_do_not_lose_a_small_variance_beside_a_large_mean():
    model = with_mixed_channels()
    model.encoder.data *= 1e-3
    plain = measure_statistics(to_system(model), all_batches(make_pictures()))
    system = to_system(model)
    encode = system.encode_moments
    shift = torch.zeros(1, 8, 1, 1)
    shift[:, :4] = 2.0**10  # float32 keeps 14 bits behind the point
    system.encode_moments = lambda images: encode(images) + shift
    shifted = measure_statistics(system, all_batches(make_pictures()))
    difference = (shifted.moments.covariance - plain.moments.covariance).abs().max()
    assert difference < 1e-8
    torch.testing.assert_close(shifted.moments.mean, plain.moments.mean + 1024, rtol=0, atol=1e-4)


def test_the_metric_of_a_linear_decoder_is_its_gram_matrix():
    system, metric = to_system(model := with_mixed_channels()), DecoderMetric(4, 16, seed=0)
    for batch in all_batches(make_pictures()).of_this_process(system):
        metric.add(system, batch)
    expected = (model.decoder.T @ model.decoder / PATCH).detach().double()
    scale = float(expected.diagonal().max())
    torch.testing.assert_close(metric.reduce(), expected, rtol=0, atol=0.03 * scale)


def test_conditional_costs_are_what_decoding_costs():
    pictures, model = make_pictures(), with_mixed_channels()
    system, batches = to_system(model), all_batches(make_pictures())
    moments = measure_statistics(system, batches).moments
    metric = (model.decoder.T @ model.decoder / PATCH).detach().double()
    left_out = LeaveOneOut(moments)
    whole = float(measure_maps(system, batches, [keep_channels(range(4), moments)])[0])
    for num_kept in (1, 2, 3):
        sets = list(itertools.combinations(range(4), num_kept))
        maps = [keep_channels(kept, moments) for kept in sets]
        increase = measure_maps(system, batches, maps) - whole
        costs = conditional_costs(metric, moments.covariance, sets)
        torch.testing.assert_close(costs, increase, rtol=1e-3, atol=1e-6)
    for batch in batches.of_this_process(system):
        left_out.add(system, batch)
    error, by_mean, by_others = left_out.reduce().errors()
    assert error == pytest.approx(whole)
    torch.testing.assert_close(
        by_mean - error, metric.diagonal() * moments.covariance.diagonal(), rtol=1e-3, atol=1e-6
    )
    assert (by_others <= by_mean + 1e-9).all()
    settings = replace(SETTINGS, num_pictures=96, num_search=96, learned_steps=0)
    measured = analyze(system, pictures, settings, "planted").criterion("elimination").ranking
    assert measured == eliminate_by_moments(metric, moments.covariance)


def test_what_stands_in_for_a_channel_comes_from_the_other_open_ones():
    system, batches = to_system(with_mixed_channels()), all_batches(make_pictures())
    moments = measure_statistics(system, batches).moments
    latents = batches.encode(system, 0).mean
    found = stand_ins([0, 2], moments, "linear").substitute(latents)
    for channel, others in ((0, [2]), (1, [0, 2]), (2, [0]), (3, [0, 2])):
        expected = keep_channels(others, moments, "linear").substitute(latents)
        torch.testing.assert_close(found[:, channel], expected[:, channel], rtol=0, atol=1e-4)


@pytest.mark.parametrize("fill", ["mean", "linear"])
def test_the_predictor_learns_the_order_of_the_channels(fill):
    directions = BASIS[:, [9, 3, 6, 0]]  # pictures vary most along the first ones
    model = LinearAutoencoder(directions.T.clone(), directions.clone())
    system, batches = to_system(model), all_batches(make_pictures())
    moments = measure_statistics(system, batches).moments
    scores = learn_scores(system, batches, moments, 150, fill)
    assert scores.argsort(descending=True).tolist() == [3, 1, 2, 0]
