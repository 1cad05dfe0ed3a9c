"""What an input-adaptive gate does: which channel sets occur, for whom, and what one would cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures
from pelap.families.latent_axes import by_channel
from pelap.measure.encoded_batches import Batches
from pelap.measure.evaluation_record import ChannelSets, StaticSet
from pelap.method.losses import psnr_db
from pelap.method.system import LatentDiffusion

NUM_CANDIDATES = 5
"""Most frequent sets that are tried as the one static set."""
NUM_PICTURES = 1000
"""Pictures on which the candidates are compared."""


@dataclass(frozen=True)
class CountedSets:
    """The distinct masks of zeros and ones that occurred, most frequent first."""

    sets: Tensor
    """(S, C) in {0, 1}."""
    counts: Tensor
    """int64, (S,)."""
    set_of_picture: Tensor
    """Index into `sets` of each picture, (N,)."""

    def frequencies(self, chosen: Tensor | None = None) -> list[float]:
        """Share of each set among all pictures, or among those chosen by a mask (N,)."""
        of_picture = self.set_of_picture if chosen is None else self.set_of_picture[chosen]
        return (of_picture.bincount(minlength=len(self.sets)) / len(of_picture)).tolist()


def to_list(mask: Tensor) -> list[int]:
    """Open channels of one mask (C,), by number."""
    return mask.nonzero().flatten().tolist()


def to_mask(channels: list[int], num_channels: int) -> Tensor:
    """The reverse of `to_list`."""
    mask = torch.zeros(num_channels)
    mask[channels] = 1.0
    return mask


def by_class(pictures: Pictures) -> dict[str, Tensor]:
    """Which pictures belong to each class that has any, bool (N,) by its name."""
    chosen = {name: pictures.labels == i for i, name in enumerate(pictures.class_names)}
    return {name: of_class for name, of_class in chosen.items() if bool(of_class.any())}


def count_sets(masks: Tensor) -> CountedSets:
    """The channel sets among masks (N, C) of zeros and ones."""
    sets, inverse, counts = masks.unique(dim=0, return_inverse=True, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return CountedSets(sets[order], counts[order], rank[inverse])


def describe_sets(
    system: LatentDiffusion, pictures: Pictures, masks: Sequence[Tensor], config: RunConfig
) -> ChannelSets:
    """The sets that occurred among the masks, and the one that reconstructs best.

    Args:
        system: With an adaptive gate.
        pictures: Those that the masks belong to.
        masks: (B, C) of zeros and ones, a batch each.
        config: Its evaluation gives batch size and seed.
    """
    counted = count_sets(torch.cat(list(masks)))
    return ChannelSets(
        len(counted.sets),
        [to_list(mask) for mask in counted.sets],
        counted.frequencies(),
        {name: counted.frequencies(chosen) for name, chosen in by_class(pictures).items()},
        best_static_set(system, pictures, counted, config),
    )


@torch.no_grad()
def best_static_set(
    system: LatentDiffusion, pictures: Pictures, counted: CountedSets, config: RunConfig
) -> StaticSet:
    """The one set that reconstructs best in place of the gate's own choice.

    Tried are the most frequent sets and the channels that are open most often, as many as are open
    on average, on the first `NUM_PICTURES` pictures.
    """
    indices = torch.arange(min(NUM_PICTURES, len(pictures)))
    batches = Batches(pictures, indices, config.evaluation.batch_size, config.evaluation.seed)
    weights = counted.counts / counted.counts.sum()
    open_share = (counted.sets * weights[:, None]).sum(dim=0)  # (C,)
    num_open = max(1, round(float(open_share.sum())))
    most_open = torch.zeros_like(open_share).scatter_(0, open_share.topk(num_open).indices, 1.0)
    candidates = torch.cat([counted.sets[:NUM_CANDIDATES], most_open[None]]).unique(dim=0)
    candidates = candidates.to(next(system.parameters()).device)
    errors = torch.zeros(1 + len(candidates), dtype=torch.float64)
    for number in range(len(batches)):
        batch = batches.encode(system, number)
        masks = [system.mask(batch.latents).mask, *candidates]
        for index, mask in enumerate(masks):
            decoded = system.decode(batch.latents * by_channel(mask, batch.latents))
            errors[index] += (decoded - batch.images).square().sum().double().cpu()
    errors /= len(indices) * 3 * config.data.size**2
    best = int(errors[1:].argmin())
    adaptive, static = psnr_db(float(errors[0])), psnr_db(float(errors[1 + best]))
    channels = to_list(candidates[best])
    return StaticSet(channels, static, adaptive, adaptive - static, len(indices))


def draw_sets(measured: ChannelSets, num_samples: int, num_channels: int, seed: int) -> Tensor:
    """Masks (N, C) drawn with the measured frequencies."""
    sets = torch.stack([to_mask(channels, num_channels) for channels in measured.sets])
    frequencies = torch.tensor(measured.frequencies)
    source = generator(seed, "sampling", 2)
    return sets[torch.multinomial(frequencies, num_samples, replacement=True, generator=source)]
