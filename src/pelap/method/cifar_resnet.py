"""The CIFAR ResNets of He et al. (arXiv 1512.03385) with published weights, below $PELAP_DATA.

ResNet-20 judges pictures, ResNet-32 gives the features of a training loss: what a network was
trained against must not judge it.
"""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pelap.core.errors import DataError, in_one_line


class _BasicBlock(nn.Module):
    """Two normalised 3×3 convolutions and a shortcut without parameters."""

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


class CifarResNet(nn.Module):
    """Three stages of residual blocks with 16, 32 and 64 channels, and a linear classifier.

    Args:
        depth: Layers, 6n + 2 with n blocks a stage.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]), persistent=False)

    def block_features(self, pictures: Tensor) -> list[Tensor]:
        """What leaves each block, (B, C_i, H_i, W_i), of pictures (B, 3, H, W) in [0, 1]."""
        x = (pictures - self.mean[:, None, None]) / self.std[:, None, None]
        x = torch.relu(self.bn1(self.conv1(x)))  # (B, 16, H, W)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                x = block(x)
                features.append(x)
        return features

    def pooled(self, pictures: Tensor) -> Tensor:
        """The last block's features averaged over each picture (B, 3, H, W) in [0, 1], (B, 64)."""
        return self.block_features(pictures)[-1].mean(dim=(2, 3))

    @torch.no_grad()
    def classify(self, pictures: Tensor, batch_size: int = 500) -> Tensor:
        """The class, (N,) on the CPU, of pictures, uint8 (N, 3, H, W): an index as CIFAR-10's."""
        device = self.mean.device
        parts = [
            self.linear(self.pooled(part.to(device).float() / 255)).argmax(dim=1).cpu()
            for part in pictures.split(batch_size)
        ]
        return torch.cat(parts)


def load_cifar_resnet(network: CifarResNet, depth: int) -> None:
    """Read the published weights of that depth into the network.

    Raises:
        DataError: If they are missing or broken.
    """
    file = f"features/resnet{depth}_cifar10.safetensors"
    root = os.environ.get("PELAP_DATA")
    if not root:
        raise DataError(
            f"ResNet-{depth} needs its weights: set PELAP_DATA to the folder that holds {file}."
        )
    path = Path(root) / file
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = in_one_line(error)
        raise DataError(f"No ResNet-{depth} weights at {path} ({reason}).") from error


def fuse_batch_norms(network: CifarResNet) -> None:
    """Fold the batch norms of a network in evaluation mode into its convolutions, for speed."""
    owners = [network, *(m for m in network.modules() if isinstance(m, _BasicBlock))]
    for owner in owners:
        for number in (1, 2):
            if hasattr(owner, f"conv{number}"):
                conv, norm = getattr(owner, f"conv{number}"), getattr(owner, f"bn{number}")
                setattr(owner, f"conv{number}", fuse_conv_bn_eval(conv, norm))
                setattr(owner, f"bn{number}", nn.Identity())


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    rest = (_BasicBlock(out_channels, out_channels) for _ in range(blocks - 1))
    return nn.Sequential(_BasicBlock(in_channels, out_channels), *rest)
