"""Second pass, the denoiser's part: how much its loss would notice each channel."""

from itertools import pairwise

import torch
from torch import Tensor

from pelap.core.processes import sum_over_processes
from pelap.core.seeding import generator
from pelap.families.latent_axes import by_channel
from pelap.measure.encoded_batches import EncodedBatch
from pelap.method.system import LatentDiffusion


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
            noise = torch.randn(latents.shape, generator=source, device=device)
            slopes = _mask_gradient(system, latents, noise, timesteps)  # (B, C)
            self.total[row] += slopes.abs().double().sum(dim=0).cpu()
        self.count += len(latents)

    def reduce(self) -> Tensor:
        """(num_bands, C), over all processes."""
        return sum_over_processes(self.total) / sum_over_processes(self.count)


@torch.enable_grad()
def _mask_gradient(
    system: LatentDiffusion, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    noisy, target = system.noised(latents, noise, timesteps)
    mask = latents.new_ones(latents.shape[:2]).requires_grad_()  # (B, C)
    prediction = system.denoiser(noisy * by_channel(mask, noisy), timesteps).sample.float()
    loss = (prediction - target).square().flatten(1).mean(dim=1).sum()  # each picture its own
    return torch.autograd.grad(loss, mask)[0]
