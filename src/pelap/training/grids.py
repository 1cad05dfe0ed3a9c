"""Samples while a class-conditional denoiser trains: a grid to look at, and how many are right."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils.pil_utils import make_image_grid
from PIL import Image
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.errors import DataError
from pelap.data.load import CIFAR10_CLASSES
from pelap.method.cifar_resnet import CifarResNet, load_cifar_resnet
from pelap.method.sampling import sample
from pelap.method.step import uses_bf16
from pelap.method.system import LatentDiffusion

MOST_COLUMNS = 10


@dataclass(frozen=True)
class ClassSamples:
    """Samples of every class, as many of each."""

    pictures: Tensor
    """uint8, (K·n, 3, H, W), class by class."""
    labels: Tensor
    """int64, (K·n,)."""

    def save_grid(self, path: Path) -> None:
        """Write a PNG with a class a row."""
        num_classes = int(self.labels.max()) + 1
        rows = self.pictures.unflatten(0, (num_classes, -1))[:, :MOST_COLUMNS]
        images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in rows.flatten(0, 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image_grid(images, rows=num_classes, cols=rows.shape[1]).save(path)


def draw_classes(system: LatentDiffusion, config: RunConfig) -> ClassSamples:
    """Samples with fixed noise, as the config's evaluation says; at least one of each class."""
    evaluation, num_classes = config.evaluation, config.network.num_classes
    of_each = max(1, evaluation.num_samples // num_classes)
    labels = torch.arange(num_classes).repeat_interleave(of_each)
    device = next(system.parameters()).device
    use_bf16 = uses_bf16(config.run.precision, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
        pictures = sample(
            system.eval(),
            config,
            num_samples=len(labels),
            sampler=evaluation.sampler,
            num_steps=evaluation.num_steps,
            seed=evaluation.seed,
            labels=labels,
            guidance=evaluation.guidance,
        )
    return ClassSamples(pictures, labels)


def judge_classes(pictures: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> float | None:
    """Share of pictures, uint8 (N, 3, H, W), in which a ResNet-20 sees their class.

    Returns:
        In [0, 1]; None where it cannot tell, for it knows CIFAR-10's classes at 32×32 only and
        needs its weights.
    """
    if class_names != CIFAR10_CLASSES or pictures.shape[-2:] != (32, 32):
        return None
    network = CifarResNet(depth=20).eval()
    try:
        load_cifar_resnet(network, 20)
    except DataError:
        return None
    return float((network.classify(pictures) == labels).float().mean())
