"""Feature extractors for distances between sets of pictures."""

import importlib
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pelap.core.errors import ConfigError
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
    if name == "resnet20":
        extractor: object = load_resnet20()
    elif name == "inception":
        extractor = Inception()
    else:
        extractor = _load_factory(name)
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


def _load_factory(name: str) -> object:
    module, _, factory = name.partition(":")
    try:
        return getattr(importlib.import_module(module), factory)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"--evaluation.extractor is {name!r} ({error}): known are resnet20, inception and "
            "package.module:factory."
        ) from error


@torch.no_grad()
def extract(
    extractor: FeatureExtractor, images: Tensor, device: torch.device, batch_size: int = 500
) -> Tensor:
    """Features (N, D) on the CPU of uint8 images (N, 3, H, W)."""
    return torch.cat(
        [extractor(part.to(device)).float().cpu() for part in images.split(batch_size)]
    )
