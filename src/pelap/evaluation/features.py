"""Feature extractors for distances between sets of pictures."""

import hashlib
import importlib
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.errors import ConfigError, DataError

RESNET20_FILE = "features/resnet20_cifar10.safetensors"


@runtime_checkable
class FeatureExtractor(Protocol):
    """From pictures to feature vectors."""

    name: str
    """Part of every metric's name that is made with it."""
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, D), float32, of uint8 images (N, 3, H, W)."""
        ...


class BasicBlock(nn.Module):
    """Two normalised 3×3 convolutions and a shortcut without parameters (He et al., 1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.grows = out_channels != in_channels
        stride = 2 if self.grows else 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.grows:
            padding = (out.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, padding, padding))
        return torch.relu(out + x)


class ResNet20(nn.Module):
    """A CIFAR ResNet-20 (He et al., arXiv 1512.03385); features are its 64 pooled values."""

    name = "ResNet20"
    num_features = 64
    mean: Tensor
    std: Tensor

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32), BasicBlock(32, 32), BasicBlock(32, 32))
        self.layer3 = nn.Sequential(BasicBlock(32, 64), BasicBlock(64, 64), BasicBlock(64, 64))
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 64) of uint8 images (N, 3, H, W)."""
        x = images.to(self.mean).div(255)
        x = (x - self.mean[:, None, None]) / self.std[:, None, None]
        x = torch.relu(self.bn1(self.conv1(x)))  # (N, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, H/4, W/4)
        return x.mean(dim=(2, 3))  # (N, 64)

    def logits(self, images: Tensor) -> Tensor:
        """Scores (N, 10) of CIFAR-10's classes."""
        return self.linear(self(images))


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
        extractor: object = _load_resnet20()
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


def _load_resnet20() -> ResNet20:
    root = os.environ.get("PELAP_DATA")
    if not root:
        raise DataError(
            f"The ResNet-20 extractor needs its weights: set PELAP_DATA to the folder that holds "
            f"{RESNET20_FILE}, or choose another --evaluation.extractor."
        )
    path = Path(root) / RESNET20_FILE
    network = ResNet20()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"No ResNet-20 weights at {path} ({reason}).") from error
    return network


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


def fingerprint(extractor: FeatureExtractor) -> str:
    """A hash of the extractor's name and weights."""
    digest = hashlib.sha256(extractor.name.encode())
    if isinstance(extractor, nn.Module):
        for name, tensor in extractor.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
