"""How much the denoiser's loss would notice each of its weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pelap.analysis.timestep_scores import equal_bands
from pelap.core.processes import sum_over_processes
from pelap.core.seeding import generator
from pelap.families.conditioned import bare
from pelap.measure.encoded_batches import Batches
from pelap.method.system import LatentDiffusion

NUM_BANDS = 20
"""Parts of the timesteps whose mean losses are compared."""
NUM_PROBED = 4
"""Batches on which they are measured."""


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
            total[row] += float(_loss(system, batch.latents, choices, batches.seed, batch.number))
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
                loss = _loss(system, batch.latents, timesteps, batches.seed, batch.number)
                slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for (name, weight), slope in zip(weights.items(), slopes, strict=True):
                if slope is not None:
                    total[name] += (weight.detach() * slope).abs()
    finally:
        frozen.requires_grad_(False)
    return {name: sum_over_processes(slopes) / len(batches) for name, slopes in total.items()}


def _loss(
    system: LatentDiffusion, latents: Tensor, choices: Tensor, seed: int, number: int
) -> Tensor:
    """Mean squared error of the prediction at timesteps drawn from `choices`."""
    source = generator(seed, "sampling", number, latents.device)
    places = torch.randint(len(choices), (len(latents),), generator=source, device=latents.device)
    timesteps = choices.to(latents.device)[places]
    noise = torch.randn(latents.shape, generator=source, device=latents.device)
    noisy, target = system.noised(latents, noise, timesteps)
    return (system.denoiser(noisy, timesteps).sample.float() - target).square().mean()
