"""Distances between sets of features, against closed forms and an independent implementation."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from pelap.measure.fidelity import (
    FeatureStatistics,
    bootstrap,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


def normal(num: int, dims: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dims, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_of_axis_aligned_gaussians_is_the_closed_form():
    mean_a, mean_b = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.5, 1.0, 1.0])
    std_a, std_b = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 0.1])
    a = FeatureStatistics(mean_a.double(), std_a.double().square().diag())
    b = FeatureStatistics(mean_b.double(), std_b.double().square().diag())
    expected = (mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_agrees_with_the_matrix_root_of_scipy():
    mix = normal(6, 6, 1).double()
    a, b = normal(500, 6, 2).double() @ mix, normal(400, 6, 3).double() * 2 + 1
    statistics_a, statistics_b = FeatureStatistics.of(a), FeatureStatistics.of(b)
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    gap = a.numpy().mean(0) - b.numpy().mean(0)
    expected = gap @ gap + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(statistics_a, statistics_b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(statistics_b, statistics_a) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_zero_for_the_same_features_also_when_singular():
    flat = normal(50, 5)
    flat[:, 3] = flat[:, 2]
    statistics = FeatureStatistics.of(flat)
    assert frechet_distance(statistics, statistics) == pytest.approx(0, abs=1e-6)


def test_statistics_need_two_pictures():
    with pytest.raises(ValueError, match="at least 2"):
        FeatureStatistics.of(normal(1))


def test_kernel_distance_is_unbiased_around_zero_and_positive_for_a_shift():
    assert abs(kernel_distance(normal(2000), normal(2000, seed=1))) < 0.01
    shifted = kernel_distance(normal(2000), normal(2000, seed=1) + 1)
    # E k(x, y) for x ~ N(0, 1), y ~ N(1, 1) in closed form through moments of x·y/D
    assert shifted > 0.3


def test_kernel_distance_of_points_by_hand():
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
    expected = (1 * 2 + 1) ** 3 + 1 - 2 * np.mean([1, 4**3, 1, 7**3])
    assert kernel_distance(x, y) == pytest.approx(expected)


def test_precision_and_recall_of_planted_sets():
    real = normal(300)
    assert precision_recall(real, real.clone()) == (1.0, 1.0)
    assert precision_recall(real, normal(300, seed=1) + 100) == (0.0, 0.0)
    two_modes = torch.cat([normal(200, seed=2), normal(200, seed=3) + 50])
    precision, recall = precision_recall(two_modes, normal(400, seed=4))
    assert precision > 0.9
    assert 0.4 < recall < 0.6


@pytest.mark.parametrize(("num_real", "num_fake"), [(3, 10), (10, 3)])
def test_precision_and_recall_need_more_pictures_than_neighbours(num_real: int, num_fake: int):
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(normal(num_real), normal(num_fake))


def test_kernel_distance_needs_two_pictures():
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(normal(5), normal(1))


def test_bootstrap_gives_the_standard_error_and_is_deterministic():
    values = normal(1000, 1)[:, 0]
    first = bootstrap(lambda x: float(x.mean()), values, 200)
    assert first.std == pytest.approx(1 / math.sqrt(1000), rel=0.2)
    assert first.low is not None
    assert first.high is not None
    assert first.low < float(values.mean()) < first.high
    assert first == bootstrap(lambda x: float(x.mean()), values, 200)
    assert first != bootstrap(lambda x: float(x.mean()), values, 200, seed=1)
