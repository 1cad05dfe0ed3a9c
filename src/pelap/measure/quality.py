"""Quality metrics by name, each with its sample count and spread."""

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pelap.config.run_folder import write_whole
from pelap.core.errors import ConfigError
from pelap.measure.features import (
    FeatureExtractor,
    extract,
    fingerprint,
    load_extractor,
    load_resnet20,
)
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
    """Class that each sample was asked for, likewise."""


@dataclass(frozen=True)
class MetricValue:
    """One figure, how many pictures it is made of, and its spread over resampled pictures."""

    value: float
    num_pictures: int
    num_references: int | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """The pictures with their features, each set's extracted once."""

    pictures: QualityPictures
    extractor_name: str
    device: torch.device
    cache: Path | None
    num_bootstraps: int
    seed: int

    @cached_property
    def extractor(self) -> FeatureExtractor:
        return load_extractor(self.extractor_name, self.device)

    @cached_property
    def of_originals(self) -> Tensor:
        return _cached_features(self.extractor, self.pictures.originals, self.device, self.cache)

    @cached_property
    def of_reconstructions(self) -> Tensor:
        return extract(self.extractor, _need(self.pictures.reconstructions), self.device)

    @cached_property
    def of_samples(self) -> Tensor:
        return extract(self.extractor, _need(self.pictures.samples), self.device)

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


def _need(pictures: Tensor | None) -> Tensor:
    assert pictures is not None
    return pictures


def _psnr(c: Comparison) -> MetricValue:
    errors = _squared_errors(c.pictures)  # (N,), in grey levels squared

    def psnr(values: Tensor) -> float:
        error = float(values.mean())
        return 10 * math.log10(255**2 / error) if error else math.inf

    return c.spread(psnr, errors, len(errors))


def _squared_errors(pictures: QualityPictures) -> Tensor:
    pairs = zip(
        pictures.originals.split(1000), _need(pictures.reconstructions).split(1000), strict=True
    )
    return torch.cat([(a.double() - b.double()).square().mean(dim=(1, 2, 3)) for a, b in pairs])


def _ssim(c: Comparison) -> MetricValue:
    # imported when used: torchmetrics takes seconds and brings pyplot along
    from torchmetrics.functional.image import structural_similarity_index_measure

    pairs = zip(
        c.pictures.originals.split(500), _need(c.pictures.reconstructions).split(500), strict=True
    )
    parts = [
        structural_similarity_index_measure(
            b.float(), a.float(), data_range=255.0, reduction="none"
        )
        for a, b in pairs
    ]
    values = torch.cat([torch.as_tensor(part).reshape(-1) for part in parts])
    return c.spread(lambda x: float(x.mean()), values, len(values))


def _frechet(c: Comparison, features: Tensor, references: Tensor) -> MetricValue:
    fixed = FeatureStatistics.of(references)

    def distance(drawn: Tensor) -> float:
        return frechet_distance(FeatureStatistics.of(drawn), fixed)

    return c.spread(distance, features, len(references))


def _kernel(c: Comparison) -> MetricValue:
    real, fake = c.of_originals, c.of_samples
    return MetricValue(kernel_distance(real, fake, c.seed), len(fake), len(real))


def _precision_recall(c: Comparison, index: int) -> MetricValue:
    # as many of each: the radii depend on the number
    num = min(len(c.of_originals), len(c.of_samples))
    value = precision_recall(c.of_originals[:num], c.of_samples[:num])[index]
    return MetricValue(value, num, num)


def _accuracy(c: Comparison, pictures: Tensor, labels: Tensor | None) -> MetricValue:
    if labels is None:
        raise ValueError("it needs the classes of CIFAR-10, and a denoiser that is told them")
    judge = load_resnet20().to(c.device)
    right = (judge.classify(pictures) == labels).double()
    return c.spread(lambda x: float(x.mean()), right, len(right))


@dataclass(frozen=True)
class Metric:
    """What a metric is called and how it is measured."""

    label: str
    """With {} for the extractor's name, as it stands in evaluation.json."""
    needs: str
    """Field of QualityPictures beside the originals."""
    higher_is_better: bool
    measure: Callable[[Comparison], MetricValue]


METRICS: dict[str, Metric] = {
    "psnr": Metric("psnr_db", "reconstructions", True, _psnr),
    "ssim": Metric("ssim", "reconstructions", True, _ssim),
    "rfd": Metric(
        "rFD-{}", "reconstructions", False,
        lambda c: _frechet(c, c.of_reconstructions, c.of_originals),
    ),
    "fd": Metric("FD-{}", "samples", False, lambda c: _frechet(c, c.of_samples, c.of_originals)),
    "fd_to_reconstructions": Metric(
        "FD-{}-to-reconstructions", "samples", False,
        lambda c: _frechet(c, c.of_samples, c.of_reconstructions),
    ),
    "kid": Metric("KID-{}", "samples", False, _kernel),
    "precision": Metric("precision-{}", "samples", True, lambda c: _precision_recall(c, 0)),
    "class_accuracy": Metric(
        "class-accuracy-ResNet20", "samples", True,
        lambda c: _accuracy(c, _need(c.pictures.samples), c.pictures.sample_labels),
    ),
    "reconstruction_accuracy": Metric(
        "reconstruction-accuracy-ResNet20", "reconstructions", True,
        lambda c: _accuracy(c, _need(c.pictures.reconstructions), c.pictures.labels),
    ),
    "recall": Metric("recall-{}", "samples", True, lambda c: _precision_recall(c, 1)),
}  # fmt: skip
FID = "fid"
"""The Fréchet distance of samples with Inception features: asked for by name, whatever the
extractor of the others."""


def check_metrics(names: Sequence[str], extractor: str, device: torch.device) -> None:
    """Refuse what `measure_quality` could not measure, before anything is trained for it.

    Raises:
        ConfigError: If a metric is unknown, naming the nearest, or there is no such extractor.
        DataError: If the extractor's weights are missing or broken.
    """
    check_names(names)
    if any(name in ("class_accuracy", "reconstruction_accuracy") for name in names):
        load_resnet20()
    if any(name != FID and "{" in METRICS[name].label for name in names):
        load_extractor(extractor, device)
    if FID in names:
        load_extractor("inception", device)


def was_measured(metric: str, quality: Mapping[str, Any]) -> bool:
    """Whether a metric of that name, with any extractor, is among those of an evaluation."""
    label = "FID" if metric == FID else METRICS[metric].label
    return any(re.fullmatch(label.replace("{}", r"\w+"), name) for name in quality)


def check_names(names: Sequence[str]) -> None:
    """Refuse names that no metric has.

    Raises:
        ConfigError: Names the nearest.
    """
    known = [*METRICS, FID]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"Unknown metric {name!r}: known are {', '.join(known)}.{hint}")


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
        metrics: Names, see METRICS; also "fid".
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
    reconstructions = pictures.reconstructions
    if reconstructions is not None and reconstructions.shape != pictures.originals.shape:
        raise ConfigError(
            f"Reconstructions {tuple(reconstructions.shape)} are not those of the originals "
            f"{tuple(pictures.originals.shape)}."
        )
    comparison = Comparison(pictures, extractor, device, cache, num_bootstraps, seed)
    inception = Comparison(pictures, "inception", device, cache, num_bootstraps, seed)
    found = {}
    for name in metrics:
        metric = METRICS["fd" if name == FID else name]
        used = inception if name == FID else comparison
        if getattr(pictures, metric.needs) is None:
            raise ConfigError(f"Metric {name} needs {metric.needs}, and there are none.")
        try:
            value = metric.measure(used)
        except ValueError as error:
            raise ConfigError(f"Metric {name} cannot be measured: {error}") from error
        label = "FID" if name == FID else metric.label
        found[label.format(used.extractor.name) if "{" in label else label] = value
    return found


def _cached_features(
    extractor: FeatureExtractor, images: Tensor, device: torch.device, cache: Path | None
) -> Tensor:
    if cache is None:
        return extract(extractor, images, device)
    # with the shape: the same bytes can be other pictures
    digest = hashlib.sha256(f"{tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy().tobytes())
    digest.update(fingerprint(extractor).encode())
    path = cache / f"features-{digest.hexdigest()[:24]}.safetensors"
    kept = _read_features(path)
    if kept is not None and kept.shape == (len(images), extractor.num_features):
        return kept
    features = extract(extractor, images, device)
    cache.mkdir(parents=True, exist_ok=True)
    write_whole(path, save({"features": features}))
    return features


def _read_features(path: Path) -> Tensor | None:
    """What a cache file holds; None if it is not there, damaged or not finite."""
    try:
        features = load_file(path)["features"]
    except (OSError, KeyError, SafetensorError):
        return None
    return features if bool(features.isfinite().all()) else None
