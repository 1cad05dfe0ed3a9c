"""What the efforts below exact spare, and what they find nevertheless."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from test_analysis_planted import (
    SETTINGS,
    make_pictures,
    to_system,
    with_duplicate,
    with_mixed_channels,
)
from torch import Tensor
from torch.nn import functional as F

from pelap.analysis.analysis_record import Analysis, AnalysisSettings
from pelap.analysis.autoencoder_calls import CallCounter, counted_calls
from pelap.analysis.channel_analysis import analyze, plan_analysis
from pelap.analysis.cost_record import AnalysisCost, Effort
from pelap.analysis.elimination import eliminate, eliminate_by_moments, eliminate_sparingly
from pelap.analysis.quadratic import map_cost, removal_costs
from pelap.analysis.recommendation import recommend
from pelap.analysis.tiers import crop_size, tier_size
from pelap.data.pictures import InMemoryPictures
from pelap.method.latent_map import Fill, LatentMoments, keep_channels

NUM_CHANNELS = 32
SIDE = 512
FACTOR = 8


class PatchAutoencoder(torch.nn.Module):
    """Latents of 8 × 8 patches: 32 orthonormal channels."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(3)
        basis = torch.linalg.qr(torch.randn(3 * FACTOR**2, NUM_CHANNELS, generator=source))[0]
        kernels = basis.T.reshape(NUM_CHANNELS, 3, FACTOR, FACTOR)
        self.kernels = torch.nn.Parameter(kernels)
        self.config = {"latent_channels": NUM_CHANNELS}

    def encode(self, images: Tensor) -> SimpleNamespace:
        mean = F.conv2d(images, self.kernels, stride=FACTOR)
        moments = torch.cat([mean, torch.full_like(mean, -20.0)], dim=1)
        return SimpleNamespace(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=F.conv_transpose2d(latents, self.kernels, stride=FACTOR))


def made_pictures(num_pictures: int, side: int) -> InMemoryPictures:
    """Smooth random pictures."""
    source = torch.Generator().manual_seed(1)
    coarse = torch.rand(num_pictures, 3, side // 8, side // 8, generator=source)
    pixels = F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    labels = torch.zeros(num_pictures, dtype=torch.long)
    return InMemoryPictures(labels, ("all",), (pixels * 255).to(torch.uint8))


def cost_of(analysis: Analysis) -> AnalysisCost:
    assert analysis.cost is not None
    return analysis.cost


def test_a_large_model_takes_at_most_sixty_decodes_a_picture():
    settings = AnalysisSettings(effort="normal")
    pictures, system = made_pictures(4, SIDE), to_system(PatchAutoencoder())
    planned = plan_analysis(system, pictures, settings)
    cost = cost_of(analyze(system, pictures, settings, "planted"))
    assert cost.crop_size == planned.crop_size == 160
    for kind in ("encodes", "decodes", "backward"):
        assert cost.per_picture(kind) <= planned.per_picture(kind) + 1e-9
    assert planned.per_picture("decodes") + planned.per_picture("backward") <= 60
    exact = plan_analysis(system, pictures, replace(settings, effort="exact", learned_steps=0))
    assert exact.per_picture("decodes") > 10 * cost.per_picture("decodes")
    fast = plan_analysis(system, pictures, replace(settings, effort="fast"))
    assert fast.per_picture("decodes") < 0.6 * planned.per_picture("decodes")


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_a_linear_decoder_is_ranked_as_with_all_decodes(effort: Effort):
    exact, spared = (
        analyze(
            to_system(with_mixed_channels()),
            make_pictures(),
            replace(SETTINGS, learned_steps=0, effort=one),
            "planted",
        )
        for one in ("exact", effort)
    )
    assert spared.psnr_db == pytest.approx(exact.psnr_db, abs=1e-4)
    for name in ("elimination", "conditional", "leave_one_out", "decoder_sensitivity"):
        assert spared.criterion(name).ranking == exact.criterion(name).ranking
    for count in (1, 2, 3):
        best, found = recommend(exact, keep=count), recommend(spared, keep=count)
        assert found.channels == best.channels
        assert found.psnr_db == pytest.approx(
            best.psnr_db, abs=0.05 if effort == "normal" else 0.15
        )
    assert cost_of(spared).per_picture("decodes") < cost_of(exact).per_picture("decodes")
    assert (spared.effort, exact.effort) == (effort, "exact")


def test_the_predictor_is_trained_only_where_it_is_asked_for():
    assert AnalysisSettings(effort="normal").predictor_steps == 0
    assert AnalysisSettings(effort="exact").predictor_steps == 200
    assert AnalysisSettings(effort="exact", learned_steps=0).predictor_steps == 0
    assert AnalysisSettings(effort="normal", learned_steps=7).predictor_steps == 7


def test_calls_are_counted_exactly_and_the_system_is_left_as_it_was():
    settings = replace(SETTINGS, learned_steps=0, effort="exact")
    system = to_system(with_duplicate())
    before = set(vars(system))
    cost = cost_of(analyze(system, make_pictures(), settings, "planted"))
    assert set(vars(system)) == before
    stages = {stage.stage: stage for stage in cost.stages}
    assert stages["leave one out"].decodes == 64 * 9  # twice each of four channels, and whole
    assert stages["decoder metric"].decodes == 64
    assert stages["decoder metric"].backward == 64 * settings.num_probes
    assert stages["search"].decodes == 32 * (4 + 3 + 2)
    assert stages["moments"].encodes == 64 + 16
    assert cost.num_pictures == 96


def test_a_crop_counts_by_its_share():
    system, counter = to_system(with_duplicate()), CallCounter(32**2)
    with counted_calls(system, counter):
        counter.stage = "all"
        moments = system.encode_moments(torch.zeros(2, 3, 16, 16))
        latents = moments.chunk(2, dim=1)[0].requires_grad_()
        images = system.decode(latents)
        for _ in range(3):
            torch.autograd.grad(images.sum(), latents, retain_graph=True)
    (stage,) = counter.reduce()
    assert (stage.encodes, stage.decodes, stage.backward) == (0.5, 0.5, 1.5)


def test_lazy_elimination_is_elimination_with_fewer_measurements():
    source = torch.Generator().manual_seed(2)
    mixing = torch.randn(12, 12, generator=source, dtype=torch.float64)
    covariance = mixing @ mixing.T
    metric = torch.diag(torch.rand(12, generator=source, dtype=torch.float64))
    moments = LatentMoments(torch.zeros(12).double(), covariance, torch.zeros(12).double())

    def costs(candidates: Sequence[Sequence[int]]) -> Tensor:
        return removal_costs(metric, moments, "linear", candidates)

    asked = []

    def measure(kept: Sequence[int]) -> float:
        asked.append(kept)
        return 1.0 + float(costs([kept])[0])

    first = costs([[c for c in range(12) if c != gone] for gone in range(12)])
    ranking = eliminate_sparingly(first, measure, costs, 3)
    assert ranking == eliminate(12, costs) == eliminate_by_moments(metric, covariance)
    assert len(asked) <= 1 + 3 * 11


@pytest.mark.parametrize("fill", ["zero", "mean", "linear"])
def test_the_quadratic_model_of_a_set_is_that_of_its_map(fill: Fill):
    source = torch.Generator().manual_seed(4)
    mixing = torch.randn(5, 5, generator=source, dtype=torch.float64)
    root = torch.randn(5, 5, generator=source, dtype=torch.float64)
    mean = torch.randn(5, generator=source, dtype=torch.float64)
    moments = LatentMoments(mean, mixing @ mixing.T, torch.zeros(5).double())
    metric = root @ root.T
    sets = [[0, 2], [1, 4], [3, 4]]
    expected = [map_cost(keep_channels(kept, moments, fill), moments, metric) for kept in sets]
    found = removal_costs(metric, moments, fill, sets)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_crops_and_tiers_have_their_sizes():
    assert crop_size(512, 8, 5 / 16) == 160
    assert crop_size(1024, 8, 5 / 16) == 320
    assert crop_size(256, 8, 5 / 16) == 96  # not less: twelve latents a side
    assert crop_size(128, 8, 5 / 16) is None
    assert crop_size(512, 32, 5 / 16) is None
    assert tier_size(12, 512, cropped=True, most=128) == 12
    assert tier_size(1000, 32, cropped=False, most=128) == 108
    assert tier_size(5000, 32, cropped=False, most=128) == 128
    assert tier_size(12, 512, cropped=False, most=128) == 2
