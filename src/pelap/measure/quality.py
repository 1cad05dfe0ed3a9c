"""Quality of pictures by the metrics that are asked for."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from pelap.core.errors import ConfigError
from pelap.measure.evaluation_record import MetricValue
from pelap.measure.features import load_extractor, load_resnet20
from pelap.measure.quality_metrics import METRICS, ComparedPictures, QualityPictures

FID = "fid"
"""The Fréchet distance of samples with Inception features: asked for by name, whatever the
extractor of the others."""
OF_CLASSES = ("class_accuracy", "reconstruction_accuracy")
"""Metrics that a ResNet-20 judges, which knows CIFAR-10's classes only."""


def check_metrics(names: Sequence[str], extractor: str, device: torch.device) -> None:
    """Refuse what `measure_quality` could not measure, before anything is trained for it.

    Raises:
        ConfigError: If a metric is unknown, naming the nearest, or there is no such extractor.
        DataError: If the extractor's weights are missing or broken.
    """
    check_names(names)
    if any(name in OF_CLASSES for name in names):
        load_resnet20()
    if any(name != FID and "{" in METRICS[name].label for name in names):
        load_extractor(extractor, device)
    if FID in names:
        load_extractor("inception", device)


def was_measured(metric: str, labels: Iterable[str]) -> bool:
    """Whether a metric of that name, with any extractor, is among the labels of an evaluation."""
    label = "FID" if metric == FID else METRICS[metric].label
    return any(re.fullmatch(label.replace("{}", r"\w+"), name) for name in labels)


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
    compared, by_inception = (
        ComparedPictures(pictures, name, device, cache, num_bootstraps, seed)
        for name in (extractor, "inception")
    )
    values = {}
    for name in metrics:
        metric = METRICS["fd" if name == FID else name]
        used = by_inception if name == FID else compared
        if getattr(pictures, metric.needs) is None:
            raise ConfigError(f"Metric {name} needs {metric.needs}, and there are none.")
        try:
            value = metric.measure(used)
        except ValueError as error:
            raise ConfigError(f"Metric {name} cannot be measured: {error}") from error
        label = "FID" if name == FID else metric.label
        values[label.format(used.extractor.name) if "{" in label else label] = value
    return values
