"""Which pictures pay for what: all for cheap passes, few or crops of them for expensive ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pelap.analysis.analysis_record import AnalysisSettings
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures
from pelap.measure.encoded_batches import Batches, EncodedBatch
from pelap.method.system import LatentDiffusion

LEAST_LATENTS = 12
"""Height and width of a crop's latents: smaller ones would be all border."""
LARGEST_CROP = 0.6
"""Share of a picture's height above which cropping spares too little."""
SHARE = 0.1
"""Of the pictures, where they are not cropped."""
LEAST_PIXELS = 12 * 96**2
"""Of a tier, where there are so many: of small pictures it takes more."""
BATCH_PIXELS = 32 * 128**2
"""Of a batch at most: large pictures come fewer at a time."""


@dataclass(frozen=True)
class Sparing:
    """How much an effort below `exact` decodes."""

    left_out: int
    """Pictures at most on which channels are left out one by one."""
    search: int
    """Pictures at most of the search."""
    curve: int
    """Pictures at most on which all curves are measured."""
    crop: float
    """Share of a large picture's height."""
    tries: int
    """Candidates at most decoded in a step of the search."""
    gap: int
    """Curves are measured at every so-manieth of their points."""
    refined: int
    """Points at most added to a criterion's curve where it bends."""
    shortlist: int
    """Sets a count that are measured before the best is chosen."""
    whole_gap: int
    """The best set is measured on whole pictures at every so-manieth point."""


SPARING = {
    "normal": Sparing(128, 64, 64, 5 / 16, 3, 3, 2, 3, 1),
    "fast": Sparing(32, 16, 16, 1 / 4, 2, 5, 0, 1, 5),
}


def crop_size(size: int, factor: int, crop: float) -> int | None:
    """Height and width of the crops of pictures of that size; None where cropping spares little.

    Args:
        size: Of the pictures, in pixels.
        factor: Pixels of a picture's side to one of its latent's.
        crop: Share wanted of the size.
    """
    step = 4 * factor
    side = max(LEAST_LATENTS * factor, math.ceil(crop * size / step) * step)
    return side if side <= LARGEST_CROP * size else None


def tier_size(num_pictures: int, size: int, cropped: bool, most: int) -> int:
    """How many of the pictures a tier takes: all crops of them, or a share of the whole ones."""
    if cropped:
        return min(num_pictures, most)
    wanted = max(math.ceil(SHARE * num_pictures), math.ceil(LEAST_PIXELS / size**2))
    return min(num_pictures, wanted, most)


def batch_size(settings: AnalysisSettings, size: int) -> int:
    """Pictures in memory at a time; of large ones fewer, unless nothing is to be spared."""
    if settings.effort == "exact":
        return settings.batch_size
    return min(settings.batch_size, max(1, BATCH_PIXELS // size**2))


@dataclass(frozen=True, eq=False)
class CroppedPictures(Pictures):
    """A square part of each picture, at a place of its own."""

    source: Pictures
    side: int
    seed: int

    def fetch(self, indices: Tensor) -> Tensor:
        """A square of each picture, (B, 3, side, side); the same one at every call."""
        whole = self.source.fetch(indices)  # (B, 3, H, W)
        room = whole.shape[-1] - self.side
        places = [
            torch.randint(room + 1, (2,), generator=generator(self.seed, "draws", index)).tolist()
            for index in indices.tolist()
        ]
        return torch.stack(
            [
                picture[:, top : top + self.side, left : left + self.side]
                for picture, (top, left) in zip(whole, places, strict=True)
            ]
        )


@dataclass(frozen=True)
class HeldBatches(Batches):
    """A few pictures that stay in memory with their latents: each is encoded once."""

    held: tuple[EncodedBatch, ...] = ()
    """Of this process."""

    def of_this_process(
        self, system: LatentDiffusion, label: str | None = None
    ) -> Iterator[EncodedBatch]:
        """The held batches."""
        yield from track(self.held, label)


def hold_few(
    system: LatentDiffusion, batches: Batches, num_pictures: int, crop: int | None
) -> HeldBatches:
    """The first of these pictures, or crops of them, encoded."""
    pictures = batches.pictures
    if crop is not None:
        names = {"captions": pictures.captions}
        pictures = CroppedPictures(
            pictures.labels, pictures.class_names, pictures, crop, batches.seed, **names
        )
    spread = torch.linspace(0, batches.num_pictures - 1, num_pictures).round().long()
    few = replace(batches, pictures=pictures, indices=batches.indices[spread])
    held = tuple(few.of_this_process(system, "Encoding pictures"))
    return HeldBatches(
        pictures, few.indices, batches.batch_size, batches.seed, batches.conditions, held
    )
