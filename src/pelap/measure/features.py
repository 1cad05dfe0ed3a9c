"""Feature extractors for distances between sets of pictures; references' are kept between runs."""

import importlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pelap.core.digests import digest
from pelap.core.errors import ConfigError
from pelap.core.files import write_whole
from pelap.core.notes import note
from pelap.method.cifar_resnet import CifarResNet, load_cifar_resnet


@runtime_checkable
class FeatureExtractor(Protocol):
    """From pictures to feature vectors."""

    name: str
    """Part of every metric's name that is made with it."""
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, D), float32, of uint8 images (N, 3, H, W)."""
        ...


class ResNet20(CifarResNet):
    """A CIFAR ResNet-20; features are its 64 pooled values."""

    name = "ResNet20"
    num_features = 64

    def __init__(self):
        super().__init__(depth=20)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 64) of uint8 images (N, 3, H, W)."""
        return self.pooled(images.to(self.mean).div(255))


class Inception(nn.Module):
    """torch-fidelity's Inception, whose Fréchet distance is the FID."""

    name = "Inception"
    num_features = 2048

    def __init__(self):
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found]
                FeatureExtractorInceptionV3,
            )
        except ImportError as error:
            raise ConfigError(
                "Inception features need torch-fidelity: `pip install 'pelap[fid]'`."
            ) from error
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of uint8 images (N, 3, H, W)."""
        return self.network(images)[0].float()


def load_extractor(name: str, device: torch.device) -> FeatureExtractor:
    """The extractor of that name, ready to use.

    Args:
        name: "resnet20" (weights below $PELAP_DATA), "inception" (extra `fid`), or
            "package.module:factory", a callable without arguments.
        device: Where it shall work.

    Raises:
        ConfigError: If the name is unknown or its package missing.
        DataError: If its weights are missing or broken.
    """
    known = {"resnet20": load_resnet20, "inception": Inception}
    if name in known:
        extractor: object = known[name]()
    else:
        module, _, factory = name.partition(":")
        try:
            extractor = getattr(importlib.import_module(module), factory)()
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"--evaluation.extractor is {name!r} ({error}): known are resnet20, inception and "
                "package.module:factory."
            ) from error
    if isinstance(extractor, nn.Module):
        extractor.to(device).eval()
    if not isinstance(extractor, FeatureExtractor):
        raise ConfigError(
            f"--evaluation.extractor {name} gave a {type(extractor).__name__}: "
            "it needs `name`, `num_features` and a call from images to features."
        )
    return extractor


def load_resnet20() -> ResNet20:
    """The network that judges, with its weights.

    Raises:
        DataError: If they are missing or broken.
    """
    network = ResNet20()
    load_cifar_resnet(network, 20)
    return network.eval()


@torch.no_grad()
def extract(
    extractor: FeatureExtractor, images: Tensor, device: torch.device, batch_size: int = 500
) -> Tensor:
    """Features (N, D) on the CPU of uint8 images (N, 3, H, W)."""
    return torch.cat(
        [extractor(part.to(device)).float().cpu() for part in images.split(batch_size)]
    )


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
    try:
        kept = load_file(path)["features"]
        if kept.shape == (len(images), extractor.num_features) and bool(kept.isfinite().all()):
            return kept
    except (OSError, KeyError, SafetensorError):
        pass  # not there, or damaged
    features = extract(extractor, images, device)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({"features": features}))
    except OSError as error:
        note(f"the references' features are not kept in {cache}: {error.strerror}.")
    return features
