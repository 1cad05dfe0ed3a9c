"""What an input-adaptive gate does: which channel sets occur, for whom, and what one would cost."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures, to_batch
from pelap.method.losses import psnr_db
from pelap.method.system import LatentDiffusion, latent_shape

NUM_CANDIDATES = 5
"""Most frequent sets that are tried as the one static set."""
NUM_PICTURES = 1000
"""Pictures on which the candidates are compared."""


@dataclass(frozen=True)
class ChannelSets:
    """The distinct masks of zeros and ones that occurred, most frequent first."""

    sets: Tensor
    """(S, C) in {0, 1}."""
    counts: Tensor
    """int64, (S,)."""
    set_of_picture: Tensor
    """Index into `sets` of each picture, (N,)."""

    def as_dict(self, labels: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
        """Number, sets as channel lists, and their frequencies over all and in each class."""
        return {
            "num_sets": len(self.sets),
            "sets": [to_list(one) for one in self.sets],
            "frequencies": (self.counts / self.counts.sum()).tolist(),
            "frequencies_by_class": {
                name: self._frequencies(labels == index)
                for index, name in enumerate(class_names)
                if bool((labels == index).any())
            },
        }

    def _frequencies(self, chosen: Tensor) -> list[float]:
        counts = torch.bincount(self.set_of_picture[chosen], minlength=len(self.sets))
        return (counts / counts.sum()).tolist()


def to_list(mask: Tensor) -> list[int]:
    """Open channels of one mask (C,), by number."""
    return mask.nonzero().flatten().tolist()


def to_mask(channels: list[int], num_channels: int) -> Tensor:
    """The reverse of `to_list`."""
    mask = torch.zeros(num_channels)
    mask[channels] = 1.0
    return mask


def count_sets(masks: Tensor) -> ChannelSets:
    """The channel sets among masks (N, C) of zeros and ones."""
    sets, inverse, counts = masks.unique(dim=0, return_inverse=True, return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return ChannelSets(sets[order], counts[order], rank[inverse])


@torch.no_grad()
def best_static_set(
    system: LatentDiffusion,
    pictures: Pictures,
    found: ChannelSets,
    config: RunConfig,
    device: torch.device,
) -> dict[str, Any]:
    """The one set that reconstructs best in place of the gate's own choice, and what it costs.

    Tried are the most frequent sets and the channels that are open most often, as many as are open
    on average, on the first `NUM_PICTURES` pictures.

    Returns:
        `channels`, PSNR in dB with that set and with the gate's own, `cost_db`, `num_pictures`.
    """
    candidates = _candidates(found).to(device)
    indices = torch.arange(min(NUM_PICTURES, len(pictures)))
    errors = torch.zeros(1 + len(candidates), dtype=torch.float64)
    for batch, part in enumerate(indices.split(config.evaluation.batch_size)):
        images = to_batch(pictures.fetch(part), device)  # (B, 3, H, W)
        source = generator(config.evaluation.seed, "validation", batch, device)
        shape = (len(part), *latent_shape(config))
        latents = system.encode(images, torch.randn(shape, generator=source, device=device)).latents
        masks = [system.mask(latents).mask, *(one.expand(len(part), -1) for one in candidates)]
        for index, mask in enumerate(masks):
            decoded = system.decode(latents * mask[:, :, None, None])
            errors[index] += (decoded - images).square().sum().double().cpu()
    errors /= len(indices) * 3 * config.data.size**2
    best = int(errors[1:].argmin())
    adaptive, static = psnr_db(float(errors[0])), psnr_db(float(errors[1 + best]))
    return {
        "channels": to_list(candidates[best]),
        "psnr_db": static,
        "adaptive_psnr_db": adaptive,
        "cost_db": adaptive - static,
        "num_pictures": len(indices),
    }


def _candidates(found: ChannelSets) -> Tensor:
    weights = found.counts / found.counts.sum()
    open_share = (found.sets * weights[:, None]).sum(dim=0)  # (C,)
    num_open = max(1, round(float(open_share.sum())))
    most_open = torch.zeros_like(open_share).scatter_(0, open_share.topk(num_open).indices, 1.0)
    return torch.cat([found.sets[:NUM_CANDIDATES], most_open[None]]).unique(dim=0)


def draw_sets(described: dict[str, Any], num_samples: int, num_channels: int, seed: int) -> Tensor:
    """Masks (N, C) drawn with the frequencies that `ChannelSets.as_dict` tells of."""
    sets = torch.stack([to_mask(channels, num_channels) for channels in described["sets"]])
    frequencies = torch.tensor(described["frequencies"])
    source = generator(seed, "sampling", 2)
    return sets[torch.multinomial(frequencies, num_samples, replacement=True, generator=source)]
