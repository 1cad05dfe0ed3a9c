"""Losses over the test split, and means over all processes."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pelap.config.run_config import RunConfig
from pelap.method.cifar_resnet import CifarResNet
from pelap.method.step import StepOutput, forward_step, make_draws
from pelap.method.system import Stage
from pelap.training.training_batches import Fetch, Tell


@torch.no_grad()
def validate_model(
    model: nn.Module,
    fetch: Fetch,
    tell: Tell,
    num_pictures: int,
    config: RunConfig,
    accelerator: Accelerator,
    stage: Stage,
    feature_network: CifarResNet | None = None,
) -> StepOutput:
    """Mean losses over the test split, with the same draws at every call."""
    model.eval()
    total, output = torch.zeros((), device=accelerator.device), None
    for index, indices in enumerate(torch.arange(num_pictures).split(config.evaluation.batch_size)):
        share = share_of(accelerator, len(indices))
        part = indices[share]
        if len(part) == 0:
            continue
        draws = make_draws(config, len(indices), "validation", index, accelerator.device)
        output = forward_step(
            model,
            fetch(part, None),
            draws.part(share),
            config,
            stage,
            tell(part),
            feature_network,
        )
        total = total + len(part) * output.to_vector()
    assert output is not None
    return output.from_vector(_reduced(accelerator, total, "sum") / num_pictures)


def average(accelerator: Accelerator, output: StepOutput) -> StepOutput:
    """The mean over all processes."""
    return output.from_vector(_reduced(accelerator, output.to_vector(), "mean"))


def share_of(accelerator: Accelerator, size: int) -> slice:
    """This process's part of a batch of `size`."""
    start = accelerator.process_index * size // accelerator.num_processes
    stop = (accelerator.process_index + 1) * size // accelerator.num_processes
    return slice(start, stop)


def _reduced(accelerator: Accelerator, values: Tensor, how: str) -> Tensor:
    reduced = accelerator.reduce(values, reduction=how)
    assert isinstance(reduced, Tensor)
    return reduced
