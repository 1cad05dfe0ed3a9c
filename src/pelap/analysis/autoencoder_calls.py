"""Counters around the autoencoder's calls."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pelap.analysis.cost_record import StageCost
from pelap.core.processes import sum_over_processes
from pelap.method.system import LatentDiffusion

KINDS = ("encodes", "decodes", "backward")


class CallCounter:
    """Pictures encoded, decoded and gone back through, by stage.

    Args:
        num_pixels: Of a whole picture: a crop counts by its share of them.
    """

    def __init__(self, num_pixels: int):
        self.num_pixels = num_pixels
        self._stage = ""
        self.totals: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(KINDS, 0.0))

    @property
    def stage(self) -> str:
        """What calls are counted under."""
        return self._stage

    @stage.setter
    def stage(self, name: str) -> None:
        """Begin a stage; without calls it has an entry too: all processes have the same ones."""
        self._stage = name
        _ = self.totals[name]

    def add(self, kind: str, shape: torch.Size) -> None:
        """Count a call by the shape (B, 3, H, W) of the images on the autoencoder's outer side."""
        self.totals[self.stage][kind] += shape[0] * shape[-2] * shape[-1] / self.num_pixels

    def reduce(self) -> list[StageCost]:
        """Of all processes, stages in the order in which they began."""
        return [
            StageCost(
                stage,
                *sum_over_processes(
                    torch.tensor([calls[kind] for kind in KINDS], dtype=torch.float64)
                ).tolist(),
            )
            for stage, calls in self.totals.items()
        ]


@contextmanager
def counted_calls(system: LatentDiffusion, counter: CallCounter) -> Iterator[None]:
    """Let the counter see every encoding, decoding and pass back through the decoder."""
    encode, decode = system.encode_moments, system.decode

    def encode_and_count(images: Tensor) -> Tensor:
        counter.add("encodes", images.shape)
        return encode(images)

    def decode_and_count(latents: Tensor) -> Tensor:
        images = decode(latents)
        shape = images.shape  # a hook that held the images would keep the graph alive
        counter.add("decodes", shape)
        if images.requires_grad:
            images.register_hook(lambda _: counter.add("backward", shape))
        return images

    before = dict(vars(system))
    system.encode_moments, system.decode = encode_and_count, decode_and_count
    try:
        yield
    finally:
        for name in ("encode_moments", "decode"):
            del vars(system)[name]
            if name in before:
                setattr(system, name, before[name])
