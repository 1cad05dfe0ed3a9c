"""Means and sums over all processes of a run, for what must not depend on how many there are; and
how they part."""

import gc

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def num_processes() -> int:
    """How many processes there are; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, with its gradient; itself where there is one."""
    if num_processes() == 1:
        return tensor
    return all_reduce(tensor) / dist.get_world_size()


@torch.no_grad()
def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes, without gradient, on the device where it was."""
    if num_processes() == 1:
        return tensor
    # NCCL adds on GPUs only, and sums are kept on the CPU in float64.
    total = tensor.cuda() if dist.get_backend() == "nccl" else tensor.clone()
    dist.all_reduce(total)
    return total.to(tensor.device)


def part() -> None:
    """Leave the other processes, at this one's end, if there are any.

    A network that was wrapped for them must not be the last to hold their group: it would wait,
    with the interpreter's lock, for a thread of Gloo that may be waiting for that lock.
    """
    if num_processes() > 1:
        group = dist.group.WORLD
        gc.collect()
        dist.destroy_process_group(group)
