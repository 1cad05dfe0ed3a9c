"""Features of reference pictures, kept between runs."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pelap.config.run_folder import write_whole
from pelap.core.digests import digest
from pelap.measure.features import FeatureExtractor, extract


def cache_folder() -> Path:
    """Where reference features are kept: $PELAP_CACHE, or pelap in the user's cache folder."""
    own = os.environ.get("PELAP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "pelap"


def cached_features(
    extractor: FeatureExtractor, images: Tensor, device: torch.device, cache: Path | None
) -> Tensor:
    """Features (N, D) on the CPU of uint8 images (N, 3, H, W): those kept in `cache`, if any are.

    Args:
        extractor: Its name and weights are part of the kept file's name, as are the pictures.
        images: The pictures.
        device: Where features are extracted.
        cache: Folder, made if need be; None keeps nothing.
    """
    if cache is None:
        return extract(extractor, images, device)
    weights = [extractor] if isinstance(extractor, nn.Module) else []
    path = cache / f"features-{digest(images, extractor.name, *weights)[:24]}.safetensors"
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
