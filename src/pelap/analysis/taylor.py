"""How much the denoiser's loss would notice each channel, and each of its weights.

Both are first-order changes of the loss without them (Molchanov et al., arXiv 1611.06440): the
channels' are the second pass of an analysis, the weights' say what a narrower denoiser keeps.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pelap.core.processes import sum_over_processes
from pelap.core.seeding import generator
from pelap.families.conditioned import bare
from pelap.families.latent_axes import by_channel
from pelap.measure.encoded_batches import Batches, EncodedBatch
from pelap.method.system import LatentDiffusion

NUM_BANDS = 20
"""Parts of the timesteps whose mean losses are compared."""
NUM_PROBED = 4
"""Batches on which they are measured."""


def equal_bands(num_timesteps: int, num_bands: int) -> list[tuple[int, int]]:
    """First and last timestep of equal parts of all, at most one a timestep."""
    num_bands = min(num_bands, num_timesteps)
    edges = [num_timesteps * band // num_bands for band in range(num_bands + 1)]
    return [(low, high - 1) for low, high in pairwise(edges)]


class TaylorScores:
    """Mean over pictures of |∂loss/∂mask_c| at mask 1, by band of timesteps.

    The mask multiplies the denoiser's input, so the derivative is Σ_xy (∂loss/∂x_c) · x_c: the
    first-order change of the loss without the channel (Molchanov et al., arXiv 1611.06440,
    equation 8). The loss is a picture's mean squared error a value of what the denoiser predicts.

    Args:
        system: Model with a denoiser.
        num_channels: C.
        num_bands: Equal parts of the timesteps, at most one a timestep.
        seed: Of timesteps and noise.
    """

    def __init__(self, system: LatentDiffusion, num_channels: int, num_bands: int, seed: int):
        self.bands = equal_bands(len(system.scheduler.alphas_cumprod), num_bands)
        self.seed = seed
        self.total = torch.zeros(len(self.bands), num_channels, dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)

    def add(self, system: LatentDiffusion, batch: EncodedBatch) -> None:
        """Take in a batch: for each band, the denoiser forth and back."""
        latents = batch.latents
        source = generator(self.seed, "sampling", batch.number, latents.device)
        for row, (first, last) in enumerate(self.bands):
            size, device = (len(latents),), latents.device
            timesteps = torch.randint(first, last + 1, size, generator=source, device=device)
            mask = latents.new_ones(latents.shape[:2]).requires_grad_()  # (B, C)
            with torch.enable_grad():
                errors = _errors(system, batch, timesteps, source, mask)
                loss = errors.flatten(1).mean(dim=1).sum()  # each picture its own
            (slopes,) = torch.autograd.grad(loss, mask)  # (B, C)
            self.total[row] += slopes.abs().double().sum(dim=0).cpu()
        self.count += len(latents)

    def reduce(self) -> Tensor:
        """(num_bands, C), over all processes."""
        return sum_over_processes(self.total) / sum_over_processes(self.count)


@dataclass(frozen=True)
class TimestepLosses:
    """Mean loss of the denoiser in bands of timesteps."""

    bands: list[tuple[int, int]]
    """First and last timestep."""
    losses: Tensor
    """(num_bands,), float64."""

    def at_least(self, share: float) -> Tensor:
        """Timesteps of the bands with at least this share of the largest loss, int64."""
        kept = self.losses >= share * self.losses.max()
        pairs = zip(self.bands, kept.tolist(), strict=True)
        return torch.cat([torch.arange(low, high + 1) for (low, high), keep in pairs if keep])


@torch.no_grad()
def measure_timestep_losses(system: LatentDiffusion, batches: Batches) -> TimestepLosses:
    """Mean squared error of what the denoiser predicts, in NUM_BANDS bands of timesteps."""
    bands = equal_bands(len(system.scheduler.alphas_cumprod), NUM_BANDS)
    total = torch.zeros(len(bands), dtype=torch.float64)
    for batch in batches.of_this_process(system):
        if batch.number >= NUM_PROBED:
            break
        for row, (first, last) in enumerate(bands):
            choices = torch.arange(first, last + 1)
            total[row] += float(_loss(system, batch, choices, batches.seed))
    return TimestepLosses(bands, sum_over_processes(total))


def measure_slopes(
    system: LatentDiffusion, batches: Batches, timesteps: Tensor, label: str
) -> dict[str, Tensor]:
    """Mean over batches of |w · ∂loss/∂w| for every weight of the denoiser, by name.

    The first-order change of the loss without the weight (Molchanov et al., arXiv 1611.06440). Each
    batch draws its timesteps from those given; Diff-Pruning (Fang et al., arXiv 2305.10924) gives
    those whose loss is above a share of the largest.

    Args:
        system: Model with a denoiser; its weights are left as they are.
        batches: The pictures; each process takes its own, all get the result.
        timesteps: To draw from, int64.
        label: Of a progress bar.
    """
    weights = dict(bare(system.denoiser).named_parameters())
    frozen = nn.ParameterList(weight for weight in weights.values() if not weight.requires_grad)
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    frozen.requires_grad_(True)
    try:
        for batch in batches.of_this_process(system, label):
            with torch.enable_grad():
                loss = _loss(system, batch, timesteps, batches.seed)
                slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                if slope is not None:
                    total[name] += (weight.detach() * slope).abs()
    finally:
        frozen.requires_grad_(False)
    return {
        name: (sum_over_processes(slopes) / len(batches)).cpu() for name, slopes in total.items()
    }


def _loss(system: LatentDiffusion, batch: EncodedBatch, choices: Tensor, seed: int) -> Tensor:
    """Mean squared error of the prediction at timesteps drawn from `choices`."""
    size, device = (len(batch.latents),), batch.latents.device
    source = generator(seed, "sampling", batch.number, device)
    places = torch.randint(len(choices), size, generator=source, device=device)
    return _errors(system, batch, choices.to(device)[places], source).mean()


def _errors(
    system: LatentDiffusion,
    batch: EncodedBatch,
    timesteps: Tensor,
    source: torch.Generator,
    mask: Tensor | None = None,
) -> Tensor:
    """Squared errors (B, C, …) of what the denoiser predicts of latents behind a mask (B, C)."""
    latents = batch.latents
    noise = torch.randn(latents.shape, generator=source, device=latents.device)
    noisy, target = system.noised(latents, noise, timesteps)
    seen = noisy if mask is None else noisy * by_channel(mask, noisy)
    return (system.predict(seen, timesteps, batch.told) - target).square()
