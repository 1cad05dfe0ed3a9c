"""Second pass, the decoder's part: what each channel costs, and how decoding magnifies errors."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from pelap.core.processes import num_processes, sum_over_processes
from pelap.core.progress import ProgressBar
from pelap.core.seeding import generator
from pelap.measure.encoded_batches import Batches, EncodedBatch
from pelap.method.latent_map import Fill, LatentMap, LatentMoments, keep_channels
from pelap.method.system import LatentDiffusion


class LeaveOneOut:
    """Squared error of decoding the encoder's mean: whole, and without each channel.

    Args:
        moments: Say what stands in for a channel.
        num_classes: Rows that pictures are sorted into by label; 1 for all in one.
    """

    def __init__(self, moments: LatentMoments, num_classes: int = 1):
        channels = range(len(moments.mean))
        others = [[other for other in channels if other != channel] for channel in channels]
        fills: tuple[Fill, ...] = ("mean", "linear")
        self.maps = [keep_or_fill(kept, moments, fill) for fill in fills for kept in others]
        self.num_channels = len(channels)
        self.totals = torch.zeros(num_classes, 1 + len(self.maps), dtype=torch.float64)
        self.counts = torch.zeros(num_classes, dtype=torch.float64)

    @torch.no_grad()
    def add(
        self,
        system: LatentDiffusion,
        batch: EncodedBatch,
        show_done: Callable[[], None] | None = None,
    ) -> None:
        """Take in a batch: 2C + 1 decodes; `show_done` is called after each."""
        rows = batch.labels if len(self.counts) > 1 else torch.zeros_like(batch.labels)
        errors = _errors(system, batch, [None, *self.maps], show_done)  # (B, 2C + 1)
        self.totals.index_add_(0, rows, errors)
        self.counts += torch.bincount(rows, minlength=len(self.counts))

    def reduce(self) -> "LeaveOneOut":
        """Add up all processes."""
        self.totals = sum_over_processes(self.totals)
        self.counts = sum_over_processes(self.counts)
        return self

    def errors(self, row: int | None = None) -> tuple[float, Tensor, Tensor]:
        """Mean squared error a value with all channels, and (C,) without each of them.

        Args:
            row: A class with at least one picture; None for all pictures.

        Returns:
            With all channels; with the mean in a channel's place; with its linear prediction.
        """
        totals = self.totals.sum(dim=0) if row is None else self.totals[row]
        means = totals / (self.counts.sum() if row is None else self.counts[row])
        return float(means[0]), means[1 : 1 + self.num_channels], means[1 + self.num_channels :]

    def rise(self) -> tuple[Tensor, Tensor]:
        """Rise of the squared error a value without each channel, (C,) each: its mean in its place,
        and its linear prediction."""
        whole, by_mean, by_others = self.errors()
        return by_mean - whole, by_others - whole


class DecoderMetric:
    """M = E[Σ_p J_pᵀ J_p] / D: to second order, latent errors of covariance Δ cost tr(M · Δ).

    J_p is the Jacobian (D, C) of the D = 3HW output values by the latents at position p; errors at
    different positions are taken to be independent. For v ~ N(0, I) of the output's shape,
    g = Jᵀv has E[g_p g_pᵀ] = J_pᵀ J_p, so M is the mean of Σ_p g_p g_pᵀ / D over pictures and
    probes (Hutchinson's estimator).

    Args:
        num_channels: C.
        num_probes: Random vectors v a batch.
        seed: Of the probes.
    """

    def __init__(self, num_channels: int, num_probes: int, seed: int):
        self.num_probes, self.seed = num_probes, seed
        self.total = torch.zeros(num_channels, num_channels, dtype=torch.float64)
        self.count = torch.zeros((), dtype=torch.float64)

    def add(self, system: LatentDiffusion, batch: EncodedBatch) -> None:
        """Take in a batch: one decode, and one pass back a probe."""
        source = generator(self.seed, "draws", batch.number, batch.mean.device)
        with torch.enable_grad():
            mean = batch.mean.detach().requires_grad_()
            decoded = system.decode(mean)  # (B, 3, H, W)
            for probe in range(self.num_probes):
                vector = torch.randn(decoded.shape, generator=source, device=decoded.device)
                again = probe + 1 < self.num_probes
                (back,) = torch.autograd.grad(decoded, mean, vector, retain_graph=again)
                flat = back.double().cpu().transpose(0, 1).flatten(1)  # (C, B·h·w)
                self.total += flat @ flat.T / decoded[0].numel()
        self.count += self.num_probes * len(mean)

    def reduce(self) -> Tensor:
        """M over all processes, (C, C)."""
        return sum_over_processes(self.total) / sum_over_processes(self.count)


def measure_maps(
    system: LatentDiffusion, batches: Batches, maps: Sequence[LatentMap], label: str | None = None
) -> Tensor:
    """Mean squared error a value (M,) of decoding the encoder's mean through each of M maps.

    Args:
        system: The model.
        batches: The pictures; each process decodes its own, all get the result.
        maps: What the decoder gets in place of the mean.
        label: Of a progress bar; None for none.
    """
    total = torch.zeros(len(maps), dtype=torch.float64)
    steps = -(-len(batches) // num_processes()) * len(maps)
    with torch.no_grad(), nullcontext() if label is None else ProgressBar(label, steps) as bar:
        for batch in batches.of_this_process(system):
            total += _errors(system, batch, maps, None if bar is None else bar.advance).sum(dim=0)
    return sum_over_processes(total) / batches.num_pictures


def keep_or_fill(kept: Sequence[int], moments: LatentMoments, fill: Fill) -> LatentMap:
    """As `keep_channels`, and without any kept channel the mean, or zero, in all of them."""
    if kept:
        return keep_channels(kept, moments, fill)
    nothing = torch.zeros(0, len(moments.mean), dtype=torch.float64)
    offset = moments.mean if fill != "zero" else torch.zeros_like(moments.mean)
    return LatentMap(nothing, nothing.T, offset)


def _errors(
    system: LatentDiffusion,
    batch: EncodedBatch,
    maps: Iterable[LatentMap | None],
    show_done: Callable[[], None] | None = None,
) -> Tensor:
    """Squared error a value of each picture through each map, (B, M), float64 on the CPU."""
    columns = []
    for latent_map in maps:
        mean = batch.mean if latent_map is None else latent_map.substitute(batch.mean)
        decoded = system.decode(mean)
        columns.append((decoded - batch.images).square().double().flatten(1).mean(dim=1))
        if show_done is not None:
            show_done()
    return torch.stack(columns, dim=1).cpu()
