"""Pictures in batches that are numbered over all processes, with the latents of each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pelap.core.processes import num_processes, process_index
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures, to_batch
from pelap.families.conditioned import Told
from pelap.method.system import LatentBatch, LatentDiffusion, sample_moments
from pelap.models.conditions import Conditions


@dataclass(frozen=True)
class EncodedBatch(LatentBatch):
    """A batch of images with its latents, as the denoiser sees them."""

    number: int
    """Among the batches of all processes: what its random numbers are a function of."""
    images: Tensor
    """(B, 3, H, W) in [-1, 1]."""
    labels: Tensor
    """int64, (B,), on the CPU."""
    told: Told | None
    """What a denoiser is told of each picture; None where it is told nothing."""


@dataclass(frozen=True)
class Batches:
    """Some pictures, of which never more than one batch is in memory."""

    pictures: Pictures
    indices: Tensor
    """int64, (N,): which pictures, in this order."""
    batch_size: int
    seed: int
    conditions: Conditions | None = None
    """What a denoiser is told of the pictures."""

    def __len__(self) -> int:
        """Number of batches of all processes."""
        return -(-len(self.indices) // self.batch_size)

    @property
    def num_pictures(self) -> int:
        """Pictures of all batches."""
        return len(self.indices)

    def fetch(self, number: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] on the device, and labels (B,) on the CPU, of a batch."""
        part = self.indices[number * self.batch_size :][: self.batch_size]
        return to_batch(self.pictures.fetch(part), device), self.pictures.labels[part]

    @torch.no_grad()
    def encode(self, system: LatentDiffusion, number: int) -> EncodedBatch:
        """The batch of that number, the same at every call and in every process."""
        device = next(system.parameters()).device
        images, labels = self.fetch(number, device)  # (B, 3, H, W), (B,)
        moments = system.encode_moments(images)  # (B, 2C, h, w)
        source = generator(self.seed, "validation", number, device)
        shape = (len(images), moments.shape[1] // 2, *moments.shape[2:])
        drawn = sample_moments(moments, torch.randn(shape, generator=source, device=device))
        told = None
        if self.conditions is not None:
            part = self.indices[number * self.batch_size :][: self.batch_size]
            told = self.conditions.tell(part)
        return EncodedBatch(drawn.mean, drawn.logvar, drawn.latents, number, images, labels, told)

    def of_this_process(
        self, system: LatentDiffusion, label: str | None = None
    ) -> Iterator[EncodedBatch]:
        """Process r of R takes batches r, r + R, …; a progress bar shows if it has a label."""
        for number in track(range(process_index(), len(self), num_processes()), label):
            yield self.encode(system, number)


@contextmanager
def frozen(system: LatentDiffusion) -> Iterator[None]:
    """Evaluation mode, and no gradients of the weights: those of latents take less memory so."""
    system.eval()
    trained = nn.ParameterList(weight for weight in system.parameters() if weight.requires_grad)
    trained.requires_grad_(False)
    try:
        yield
    finally:
        trained.requires_grad_(True)
