"""What pruning changed in what a denoiser predicts, and in how far it follows what it is told."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pelap.core.devices import torch_device
from pelap.core.processes import sum_over_processes
from pelap.core.seeding import generator
from pelap.families.conditioned import ConditionedDenoiser
from pelap.measure.encoded_batches import Batches
from pelap.method.system import LatentDiffusion
from pelap.models.loaded import LoadedModel

NUM_LEVELS = 10
NUM_PICTURES = 64
MOST_ERROR = 0.1
"""Relative error above which a model needs recovery."""
LEAST_FOLLOWED = 0.9
"""Share of the original's conditional part below which it does."""


@dataclass(frozen=True)
class DenoiserFidelity:
    """A denoiser beside that of the model that it was pruned from."""

    timesteps: tuple[int, ...]
    """Where it was measured, evenly spread, rising with the noise."""
    relative_errors: tuple[float, ...]
    """‖p − E·q‖ / ‖E·q‖ of its prediction p and the original's q, at each."""
    relative_error: float
    """The same over all of them."""
    followed: float | None
    """What is left of the conditional part: with Δ what the prediction changes by when the denoiser
    is told, ⟨Δp, E·Δq⟩ / ‖E·Δq‖². 1 for the original, 0 for one that does not listen; None where
    nothing was told."""
    num_pictures: int

    @property
    def needs_recovery(self) -> bool:
        """Whether it predicts otherwise or follows less than a model fit for use."""
        follows_less = self.followed is not None and self.followed < LEAST_FOLLOWED
        return self.relative_error > MOST_ERROR or follows_less

    def describe(self) -> list[str]:
        """Lines for a terminal."""
        worst = max(self.relative_errors)
        lines = [
            f"{'prediction differs':24} {self.relative_error:.1%} of the original's size, "
            f"{worst:.1%} at most ({self.num_pictures:,} pictures, {len(self.timesteps)} levels)"
        ]
        if self.followed is not None:
            lines.append(f"{'follows what it is told':24} {self.followed:.2f} of the original")
        if self.needs_recovery:
            lines.append(f"{'needs recovery':24} it predicts too differently: `pelap recover`")
        return lines


def compare_denoisers(
    original: LoadedModel, pruned: LoadedModel, encode: Tensor, batches: Batches
) -> DenoiserFidelity | None:
    """`measure_fidelity` of two models, on the device that there is."""
    device = torch_device()
    before, after = original.measured_system(device), pruned.measured_system(device)
    return measure_fidelity(before, after, encode, batches)


@torch.no_grad()
def measure_fidelity(
    original: LatentDiffusion,
    pruned: LatentDiffusion,
    encode: Tensor,
    batches: Batches,
    label: str | None = "Measuring the denoiser",
) -> DenoiserFidelity | None:
    """Compare two denoisers on the same noisy latents at 10 noise levels.

    Args:
        original: Before pruning, C channels.
        pruned: After, K channels.
        encode: E, from the channels of one to those of the other, (K, C).
        batches: Pictures, with what the denoisers are told of each; the first 64 are taken.
        label: Of the progress bar.

    Returns:
        None where one of them has no denoiser that can be run, or they predict different things.
    """
    if original.denoiser is None or pruned.denoiser is None:
        return None
    if original.predicts_velocity != pruned.predicts_velocity:
        return None
    num_timesteps = len(original.scheduler.alphas_cumprod)
    timesteps = [int((level + 0.5) * num_timesteps / NUM_LEVELS) for level in range(NUM_LEVELS)]
    sums = torch.zeros(NUM_LEVELS, 4, dtype=torch.float64)
    is_told = False
    batches = replace(batches, indices=batches.indices[:NUM_PICTURES])
    for batch in batches.of_this_process(original, label):
        source = generator(batches.seed, "sampling", batch.number, batch.latents.device)
        noise = torch.randn(batch.latents.shape, generator=source, device=batch.latents.device)
        for level, timestep in enumerate(timesteps):
            steps = torch.full((len(noise),), timestep, device=noise.device)
            noisy, _ = original.noised(batch.latents, noise, steps)
            narrow = torch.einsum("kc,bc...->bk...", encode.to(noisy), noisy)
            wanted = torch.einsum(
                "kc,bc...->bk...", encode.to(noisy), original.predict(noisy, steps, batch.told)
            )
            found = pruned.predict(narrow, steps, batch.told)
            sums[level, 0] += _dot(found - wanted, found - wanted)
            sums[level, 1] += _dot(wanted, wanted)
            if batch.told is None or not _has_none(original):
                continue
            is_told = True
            unasked = torch.einsum(
                "kc,bc...->bk...", encode.to(noisy), original.predict(noisy, steps)
            )
            change, own = wanted - unasked, found - pruned.predict(narrow, steps)
            sums[level, 2] += _dot(own, change)
            sums[level, 3] += _dot(change, change)
    sums = sum_over_processes(sums)
    total = sums.sum(dim=0)
    return DenoiserFidelity(
        tuple(timesteps),
        tuple((sums[:, 0] / sums[:, 1]).sqrt().tolist()),
        float((total[0] / total[1]).sqrt()),
        float(total[2] / total[3]) if is_told and total[3] > 0 else None,
        batches.num_pictures,
    )


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one.double() * other.double()).sum())


def _has_none(system: LatentDiffusion) -> bool:
    """Whether the denoiser can be told nothing."""
    return isinstance(system.denoiser, ConditionedDenoiser)
