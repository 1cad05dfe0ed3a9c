"""Samples while a class-conditional denoiser trains, and how many are right."""

from dataclasses import replace

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.errors import DataError
from pelap.data.load import CIFAR10_CLASSES
from pelap.measure.features import load_resnet20
from pelap.measure.run_sampling import draw_samples
from pelap.method.step import uses_bf16
from pelap.method.system import LatentDiffusion

MOST_COLUMNS = 10


def draw_classes(system: LatentDiffusion, config: RunConfig) -> tuple[Tensor, Tensor]:
    """Samples with fixed noise, as the config's evaluation says; at least one of each class.

    Returns:
        Pictures, uint8 (K·n, 3, H, W), class by class; their labels, int64 (K·n,).
    """
    num_classes = config.network.num_classes
    of_each = max(1, config.evaluation.num_samples // num_classes)
    labels = torch.arange(num_classes).repeat_interleave(of_each)
    config = replace(config, evaluation=replace(config.evaluation, num_samples=len(labels)))
    device = next(system.parameters()).device
    use_bf16 = uses_bf16(config.run.precision, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
        return draw_samples(system.eval(), config, labels=labels), labels


def judge_classes(pictures: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> float | None:
    """Share of pictures, uint8 (N, 3, H, W), in which a ResNet-20 sees their class.

    Returns:
        In [0, 1]; None where it cannot tell, for it knows CIFAR-10's classes at 32×32 only and
        needs its weights.
    """
    if class_names != CIFAR10_CLASSES or pictures.shape[-2:] != (32, 32):
        return None
    try:
        network = load_resnet20()
    except DataError:
        return None
    return float((network.classify(pictures) == labels).float().mean())
