"""Quality of pictures by the metrics that are asked for: each metric's name, needs and rule."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pelap.core.errors import ConfigError
from pelap.measure.evaluation_record import MetricValue
from pelap.measure.features import FeatureExtractor, cached_features, load_extractor, load_resnet20
from pelap.measure.fidelity import (
    FeatureStatistics,
    bootstrap,
    frechet_distance,
    kernel_distance,
    precision_recall,
)

OF_CLASSES = ("class_accuracy", "reconstruction_accuracy")
"""Metrics that a ResNet-20 judges, which knows CIFAR-10's classes only."""


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
    extracted: dict[int, Tensor] = field(default_factory=dict)
    """Features by identity of the pictures."""

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """Loaded when first used."""
        return load_extractor(self.extractor_name, self.device)

    def features(self, images: Tensor | None) -> Tensor:
        """Features (N, D) of one of the sets; the originals' are kept in the cache."""
        assert images is not None
        if id(images) not in self.extracted:
            cache = self.cache if images is self.pictures.originals else None
            found = cached_features(self.extractor, images, self.device, cache)
            self.extracted[id(images)] = found
        return self.extracted[id(images)]

    def spread(
        self, function: Callable[[Tensor], float], features: Tensor, references: int
    ) -> MetricValue:
        """`function` of features, with its bootstrap interval."""
        return bootstrap(function, features, self.num_bootstraps, self.seed, references)


def _mean(values: Tensor) -> float:
    return float(values.mean())


def _psnr(c: ComparedPictures, given: Tensor) -> MetricValue:
    pairs = zip(c.pictures.originals.split(1000), given.split(1000), strict=True)
    parts = [(a.double() - b.double()).square().mean(dim=(1, 2, 3)) for a, b in pairs]
    errors = torch.cat(parts)  # (N,), in grey levels squared

    def psnr(values: Tensor) -> float:
        error = _mean(values)
        return 10 * math.log10(255**2 / error) if error else math.inf

    return c.spread(psnr, errors, len(errors))


def _ssim(c: ComparedPictures, given: Tensor) -> MetricValue:
    # imported when used: torchmetrics takes seconds and brings pyplot along
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    pairs = zip(c.pictures.originals.split(500), given.split(500), strict=True)
    parts = [ssim(b.float(), a.float(), data_range=255.0, reduction="none") for a, b in pairs]
    values = torch.cat([torch.as_tensor(part).reshape(-1) for part in parts])
    return c.spread(_mean, values, len(values))


def _frechet(c: ComparedPictures, given: Tensor, references: Tensor | None) -> MetricValue:
    fixed = FeatureStatistics.of(c.features(references))

    def distance(drawn: Tensor) -> float:
        return frechet_distance(FeatureStatistics.of(drawn), fixed)

    return c.spread(distance, c.features(given), len(c.features(references)))


def _frechet_to_originals(c: ComparedPictures, given: Tensor) -> MetricValue:
    return _frechet(c, given, c.pictures.originals)


def _kernel(c: ComparedPictures, given: Tensor) -> MetricValue:
    real, fake = c.features(c.pictures.originals), c.features(given)
    return MetricValue(kernel_distance(real, fake, c.seed), len(fake), len(real))


def _precision_recall(c: ComparedPictures, given: Tensor, index: int) -> MetricValue:
    real, fake = c.features(c.pictures.originals), c.features(given)
    num = min(len(real), len(fake))  # as many of each: the radii depend on the number
    return MetricValue(precision_recall(real[:num], fake[:num])[index], num, num)


def _accuracy(c: ComparedPictures, given: Tensor, labels: Tensor | None) -> MetricValue:
    if labels is None:
        raise ValueError("it needs the classes of CIFAR-10, and a denoiser that is told them")
    judge = load_resnet20().to(c.device)
    right = (judge.classify(given) == labels).double()
    return c.spread(_mean, right, len(right))


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how it is measured."""

    label: str
    """With {} for the extractor's name, as it stands in evaluation.json."""
    needs: str
    """Field of QualityPictures beside the originals."""
    measure: Callable[[ComparedPictures, Tensor], MetricValue]
    """From the pictures, and those of the field that it needs."""
    extractor: str | None = None
    """Whose features it takes whatever extractor the others have."""


METRICS: dict[str, Metric] = {
    "psnr": Metric("psnr_db", "reconstructions", _psnr),
    "ssim": Metric("ssim", "reconstructions", _ssim),
    "rfd": Metric("rFD-{}", "reconstructions", _frechet_to_originals),
    "fd": Metric("FD-{}", "samples", _frechet_to_originals),
    "fd_to_reconstructions": Metric(
        "FD-{}-to-reconstructions",
        "samples",
        lambda c, given: _frechet(c, given, c.pictures.reconstructions),
    ),
    "kid": Metric("KID-{}", "samples", _kernel),
    "precision": Metric("precision-{}", "samples", lambda c, x: _precision_recall(c, x, 0)),
    "class_accuracy": Metric(
        "class-accuracy-ResNet20",
        "samples",
        lambda c, given: _accuracy(c, given, c.pictures.sample_labels),
        "resnet20",
    ),
    "reconstruction_accuracy": Metric(
        "reconstruction-accuracy-ResNet20",
        "reconstructions",
        lambda c, given: _accuracy(c, given, c.pictures.labels),
        "resnet20",
    ),
    "recall": Metric("recall-{}", "samples", lambda c, x: _precision_recall(c, x, 1)),
    "fid": Metric("FID", "samples", _frechet_to_originals, "inception"),
}


def check_metrics(names: Sequence[str], extractor: str, device: torch.device) -> None:
    """Refuse what `measure_quality` could not measure, before anything is trained for it.

    Raises:
        ConfigError: If a metric is unknown, naming the nearest, or there is no such extractor.
        DataError: If the extractor's weights are missing or broken.
    """
    check_names(names)
    asked = [METRICS[name] for name in names]
    needed = [m.extractor or extractor for m in asked if m.extractor or "{" in m.label]
    for name in dict.fromkeys(needed):
        load_extractor(name, device)


def was_measured(metric: str, labels: Iterable[str]) -> bool:
    """Whether a metric of that name, with any extractor, is among the labels of an evaluation."""
    label = METRICS[metric].label.replace("{}", r"\w+")
    return any(re.fullmatch(label, name) for name in labels)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that no metric has.

    Raises:
        ConfigError: Names the nearest.
    """
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"Unknown metric {name!r}: known are {', '.join(METRICS)}.{hint}")


def measure_quality(
    metrics: Sequence[str],
    pictures: QualityPictures,
    extractor: str,
    *,
    device: torch.device,
    cache: Path | None = None,
    num_bootstraps: int = 20,
    seed: int = 0,
) -> dict[str, MetricValue]:
    """The metrics by label, e.g. FD-ResNet20.

    PSNR is that of the mean squared error over all pictures, in dB; SSIM the mean over pictures;
    both of bytes. Intervals resample what is measured, not the references.

    Args:
        metrics: Names, see METRICS.
        pictures: What to compare.
        extractor: See `load_extractor`.
        device: Where features are extracted.
        cache: Folder that keeps the originals' features; None keeps none.
        num_bootstraps: Resamples behind an interval.
        seed: Of the resampling.

    Raises:
        ConfigError: If a metric is unknown, its pictures are missing, or too few to measure it.
    """
    check_names(metrics)
    decoded = pictures.reconstructions
    if decoded is not None and decoded.shape != pictures.originals.shape:
        raise ConfigError(
            f"Reconstructions {tuple(decoded.shape)} are not those of the originals "
            f"{tuple(pictures.originals.shape)}."
        )
    values: dict[str, MetricValue] = {}
    compared: dict[str, ComparedPictures] = {}
    for name in metrics:
        metric = METRICS[name]
        asked, given = metric.extractor or extractor, getattr(pictures, metric.needs)
        used = compared.setdefault(
            asked, ComparedPictures(pictures, asked, device, cache, num_bootstraps, seed)
        )
        if given is None:
            raise ConfigError(f"Metric {name} needs {metric.needs}, and there are none.")
        try:
            value = metric.measure(used, given)
        except ValueError as error:
            raise ConfigError(f"Metric {name} cannot be measured: {error}") from error
        own = used.extractor.name if "{" in metric.label else ""
        values[metric.label.format(own)] = value
    return values
