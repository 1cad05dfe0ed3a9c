"""Means over all processes of a run, for what must not depend on how many there are."""

import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, with its gradient; itself where there is one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    return all_reduce(tensor) / dist.get_world_size()
