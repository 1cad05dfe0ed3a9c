"""A network run in as many parts as a GPU's memory makes necessary."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pelap.core.notes import note_once


class Halving:
    """Halves the batches of a network where no gradients are wanted, once they proved too large.

    Several networks have one each, for they need different amounts. Random numbers are drawn for
    the whole batch before, so that results are those of whole batches.

    Args:
        name: What is done to pictures, e.g. decoded.
    """

    def __init__(self, name: str):
        self.name = name
        self.most: int | None = None
        """Pictures that fitted at a time; None while all did."""

    def __call__(self, network: Callable[..., Any], *batch: Any) -> Any:
        """What `network` says of a batch: a tensor, or a tuple of tensors, (B, …) each.

        Args:
            network: Takes the parts of the batch.
            batch: Tensors (B, …), of which the first says B; dictionaries of such; other values
                go to every part as they are.

        Raises:
            torch.OutOfMemoryError: If one picture is too many, or gradients are wanted.
        """
        size = len(batch[0])
        if torch.is_grad_enabled():
            return network(*batch)
        while True:
            step = min(self.most or size, size)
            try:
                return self._in_parts(network, batch, size, step)
            except torch.OutOfMemoryError:
                if step == 1:
                    raise
            # behind the handler, whose traceback would keep what the network had made
            torch.cuda.empty_cache()
            self.most = step // 2
            note_once(f"the GPU's memory is short: {self.most} pictures at a time are {self.name}.")

    @staticmethod
    def _in_parts(
        network: Callable[..., Any], batch: tuple[object, ...], size: int, step: int
    ) -> object:
        if step == size:
            return network(*batch)
        parts = [
            network(*(_rows(given, slice(start, start + step), size) for given in batch))
            for start in range(0, size, step)
        ]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return tuple(map(torch.cat, zip(*parts, strict=True)))


def _rows(given: Any, part: slice, size: int) -> Any:
    """Some rows of what has one for each of `size` pictures; anything else as it is."""
    if isinstance(given, dict):
        return {name: _rows(value, part, size) for name, value in given.items()}
    has_rows = isinstance(given, Tensor) and given.ndim > 0 and len(given) == size
    return given[part] if has_rows else given
