"""The quality metrics by name: what each is called, what it needs, and how it is measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pelap.measure.evaluation_record import MetricValue
from pelap.measure.feature_cache import cached_features
from pelap.measure.features import FeatureExtractor, extract, load_extractor, load_resnet20
from pelap.measure.fidelity import (
    FeatureStatistics,
    bootstrap,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


@dataclass(frozen=True)
class QualityPictures:
    """Pictures to compare, uint8 (N, 3, H, W)."""

    originals: Tensor
    reconstructions: Tensor | None = None
    samples: Tensor | None = None
    labels: Tensor | None = None
    """Class of each original, (N,), where they are CIFAR-10's."""
    sample_labels: Tensor | None = None
    """Class that each sample was asked for, (N,), as an index of CIFAR-10's."""


@dataclass(frozen=True)
class ComparedPictures:
    """The pictures with their features, each set's extracted once."""

    pictures: QualityPictures
    extractor_name: str
    device: torch.device
    cache: Path | None
    num_bootstraps: int
    seed: int

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Loaded when first used."""
        return load_extractor(self.extractor_name, self.device)

    @cached_property
    def of_originals(self) -> Tensor:
        """Features (N, D), kept in the cache."""
        return cached_features(self.extractor, self.pictures.originals, self.device, self.cache)

    @cached_property
    def of_reconstructions(self) -> Tensor:
        """Features (N, D)."""
        return extract(self.extractor, self.reconstructions, self.device)

    @cached_property
    def of_samples(self) -> Tensor:
        """Features (M, D)."""
        return extract(self.extractor, self.samples, self.device)

    @property
    def reconstructions(self) -> Tensor:
        """Uint8 (N, 3, H, W); only for metrics that need them."""
        assert self.pictures.reconstructions is not None
        return self.pictures.reconstructions

    @property
    def samples(self) -> Tensor:
        """Uint8 (N, 3, H, W); only for metrics that need them."""
        assert self.pictures.samples is not None
        return self.pictures.samples

    def spread(
        self, function: Callable[[Tensor], float], features: Tensor, references: int
    ) -> MetricValue:
        """`function` of features, with its bootstrap interval.

        A resample repeats pictures, which makes a Fréchet distance larger: the interval is moved so
        that its resamples have the value as their mean.
        """
        value = function(features)
        if not math.isfinite(value):  # PSNR of equal pictures: no spread, and quantiles give NaN
            return MetricValue(value, len(features), references)
        interval = bootstrap(function, features, self.num_bootstraps, self.seed)
        shift = value - interval.mean
        low, high = interval.low + shift, interval.high + shift
        return MetricValue(value, len(features), references, interval.std, low, high)


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _psnr(c: ComparedPictures) -> MetricValue:
    pairs = zip(c.pictures.originals.split(1000), c.reconstructions.split(1000), strict=True)
    parts = [(a.double() - b.double()).square().mean(dim=(1, 2, 3)) for a, b in pairs]
    errors = torch.cat(parts)  # (N,), in grey levels squared

    def psnr(values: Tensor) -> float:
        error = _mean(values)
        return 10 * math.log10(255**2 / error) if error else math.inf

    return c.spread(psnr, errors, len(errors))


def _ssim(c: ComparedPictures) -> MetricValue:
    # imported when used: torchmetrics takes seconds and brings pyplot along
    from torchmetrics.functional.image import structural_similarity_index_measure

    parts = [
        structural_similarity_index_measure(
            b.float(), a.float(), data_range=255.0, reduction="none"
        )
        for a, b in zip(c.pictures.originals.split(500), c.reconstructions.split(500), strict=True)
    ]
    values = torch.cat([torch.as_tensor(part).reshape(-1) for part in parts])
    return c.spread(_mean, values, len(values))


def _frechet(c: ComparedPictures, features: Tensor, references: Tensor) -> MetricValue:
    fixed = FeatureStatistics.of(references)

    def distance(drawn: Tensor) -> float:
        return frechet_distance(FeatureStatistics.of(drawn), fixed)

    return c.spread(distance, features, len(references))


def _kernel(c: ComparedPictures) -> MetricValue:
    real, fake = c.of_originals, c.of_samples
    return MetricValue(kernel_distance(real, fake, c.seed), len(fake), len(real))


def _precision_recall(c: ComparedPictures, index: int) -> MetricValue:
    # as many of each: the radii depend on the number
    num = min(len(c.of_originals), len(c.of_samples))
    value = precision_recall(c.of_originals[:num], c.of_samples[:num])[index]
    return MetricValue(value, num, num)


def _accuracy(c: ComparedPictures, pictures: Tensor, labels: Tensor | None) -> MetricValue:
    if labels is None:
        raise ValueError("it needs the classes of CIFAR-10, and a denoiser that is told them")
    judge = load_resnet20().to(c.device)
    right = (judge.classify(pictures) == labels).double()
    return c.spread(_mean, right, len(right))


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how it is measured."""

    label: str
    """With {} for the extractor's name, as it stands in evaluation.json."""
    needs: str
    """Field of QualityPictures beside the originals."""
    measure: Callable[[ComparedPictures], MetricValue]


METRICS: dict[str, Metric] = {
    "psnr": Metric("psnr_db", "reconstructions", _psnr),
    "ssim": Metric("ssim", "reconstructions", _ssim),
    "rfd": Metric(
        "rFD-{}", "reconstructions", lambda c: _frechet(c, c.of_reconstructions, c.of_originals)
    ),
    "fd": Metric("FD-{}", "samples", lambda c: _frechet(c, c.of_samples, c.of_originals)),
    "fd_to_reconstructions": Metric(
        "FD-{}-to-reconstructions",
        "samples",
        lambda c: _frechet(c, c.of_samples, c.of_reconstructions),
    ),
    "kid": Metric("KID-{}", "samples", _kernel),
    "precision": Metric("precision-{}", "samples", lambda c: _precision_recall(c, 0)),
    "class_accuracy": Metric(
        "class-accuracy-ResNet20",
        "samples",
        lambda c: _accuracy(c, c.samples, c.pictures.sample_labels),
    ),
    "reconstruction_accuracy": Metric(
        "reconstruction-accuracy-ResNet20",
        "reconstructions",
        lambda c: _accuracy(c, c.reconstructions, c.pictures.labels),
    ),
    "recall": Metric("recall-{}", "samples", lambda c: _precision_recall(c, 1)),
}
