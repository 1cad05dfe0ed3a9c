"""How far two sets of pictures are apart, from their features alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.core.seeding import generator
from pelap.measure.evaluation_record import MetricValue

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 50, 1000


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features, in float64."""

    mean: Tensor
    """(D,)."""
    covariance: Tensor
    """(D, D)."""

    @classmethod
    def of(cls, features: Tensor) -> "FeatureStatistics":
        """Of features (N, D).

        Raises:
            ValueError: If there are fewer than two.
        """
        if len(features) < 2:
            raise ValueError(f"{len(features)} feature vectors: at least 2 are needed.")
        values = features.double()
        return cls(values.mean(dim=0), torch.cov(values.T).reshape(2 * values.shape[1:]))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|μ_a − μ_b|² + tr(C_a + C_b − 2·(C_a^½ C_b C_a^½)^½) (Heusel et al., arXiv 1706.08500).

    The root's trace is the sum of the roots of the eigenvalues of a symmetric matrix, which also
    holds for singular covariances.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # (D, D)
    inner = torch.linalg.eigvalsh(root @ b.covariance @ root)
    trace = a.covariance.trace() + b.covariance.trace() - 2 * inner.clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + trace)


def kernel_distance(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """Unbiased squared maximum mean discrepancy with a cubic kernel (Bińkowski et al., 1801.01401).

    Mean over subsets of features (N, D) and (M, D); k(x, y) = (x·y/D + 1)³.

    Raises:
        ValueError: If a set has fewer than two pictures.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(
            f"{len(real)} and {len(fake)} feature vectors: at least 2 of each are needed."
        )
    # imported when used: torchmetrics takes seconds
    from torchmetrics.image.kid import poly_mmd

    size = min(KERNEL_SUBSET_SIZE, len(real), len(fake))
    source = generator(seed, "bootstrap", 1)
    distances = []
    for _ in range(KERNEL_SUBSETS):
        x = real[torch.randperm(len(real), generator=source)[:size]].double()
        y = fake[torch.randperm(len(fake), generator=source)[:size]].double()
        distances.append(float(poly_mmd(x, y)))
    return sum(distances) / len(distances)


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of fakes near the real ones, and of real ones near the fakes (arXiv 1904.06991).

    Near means within the distance of some picture to its k-th neighbour of its own kind.

    Args:
        real: (N, D).
        fake: (M, D).
        k: Neighbour whose distance is the radius.

    Raises:
        ValueError: If a set has no more than k pictures.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"{len(real)} and {len(fake)} feature vectors: more than {k} of each are needed."
        )
    offset = real.mean(dim=0)  # distances lose digits far from the origin
    real, fake = real - offset, fake - offset
    return _covered(fake, real, _radii(real, k)), _covered(real, fake, _radii(fake, k))


def _radii(features: Tensor, k: int) -> Tensor:
    # the nearest is the picture itself
    parts = [torch.cdist(part, features).kthvalue(k + 1).values for part in features.split(1000)]
    return torch.cat(parts)


def _covered(queries: Tensor, centres: Tensor, radii: Tensor) -> float:
    hits = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in queries.split(1000)]
    return float(torch.cat(hits).float().mean())


def bootstrap(
    function: Callable[[Tensor], float],
    features: Tensor,
    num_resamples: int,
    seed: int = 0,
    num_references: int | None = None,
) -> MetricValue:
    """`function` of features (N, D), with its spread over features drawn again with replacement.

    A resample repeats pictures, which makes a Fréchet distance larger: the interval is moved so
    that its resamples have the value as their mean.
    """
    value, num = function(features), len(features)
    if not math.isfinite(value):  # PSNR of equal pictures: no spread, and quantiles give NaN
        return MetricValue(value, num, num_references)
    source = generator(seed, "bootstrap", 0)
    values = []
    for _ in range(num_resamples):
        drawn = torch.randint(num, (num,), generator=source)
        values.append(function(features[drawn]))
    spread = torch.tensor(values, dtype=torch.float64)
    low, high = spread.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    std = float(spread.std()) if num_resamples > 1 else 0.0
    shift = value - float(spread.mean())
    return MetricValue(value, num, num_references, std, low + shift, high + shift)
