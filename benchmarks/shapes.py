"""Pictures of one coloured shape on a coloured ground, their captions, and a judge that reads them.

    "a red circle on white"      6 colours × 3 shapes × 4 grounds; a tenth of the 72 is held out

A model that was told a caption drew what it was told where `read` finds colour, shape and ground
again. The judge has closed form: areas and nearest colours; nothing in it is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor

COLOURS = {
    "red": (0.86, 0.12, 0.12), "green": (0.10, 0.62, 0.20), "blue": (0.14, 0.27, 0.88),
    "yellow": (0.95, 0.83, 0.10), "purple": (0.55, 0.16, 0.66), "orange": (0.96, 0.50, 0.06),
}  # fmt: skip
GROUNDS = {
    "white": (0.97, 0.97, 0.97), "black": (0.04, 0.04, 0.04), "grey": (0.52, 0.52, 0.52),
    "cyan": (0.45, 0.85, 0.90),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
WORDS = ("a", "an", "on", *COLOURS, *SHAPES, *GROUNDS)
"""Every word of a caption."""
SIZE = 32
OVERSAMPLING = 4
JITTER = 0.03
"""Standard deviation of a picture's own shift of each colour."""
FILL = {"square": 1.0, "circle": torch.pi / 4, "triangle": 0.5}
"""Share of its bounding box that a shape covers."""
FEWEST_PIXELS = 20
"""A smaller spot is no shape."""
FARTHEST_COLOUR = 0.35
"""A colour farther from every named one (Euclidean, RGB in [0, 1]) has no name."""


@dataclass(frozen=True)
class Scene:
    """What a caption says."""

    colour: str
    shape: str
    ground: str

    @property
    def caption(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"{article} {self.colour} {self.shape} on {self.ground}"


ALL = tuple(Scene(*words) for words in product(COLOURS, SHAPES, GROUNDS))
HELD_OUT = ALL[4::10]
"""Seven scenes that no training sees; every word in them is seen elsewhere."""
SEEN = tuple(scene for scene in ALL if scene not in HELD_OUT)


def draw(scenes: Sequence[Scene], seed: int) -> Tensor:
    """Pictures (N, 3, 32, 32) in [0, 1], with places, sizes and exact colours of their own."""
    source = torch.Generator().manual_seed(seed)
    cover = _cover(scenes, source)
    jitter = JITTER * torch.randn(2, len(scenes), 3, generator=source)
    colour = torch.tensor([COLOURS[scene.colour] for scene in scenes]) + jitter[0]
    ground = torch.tensor([GROUNDS[scene.ground] for scene in scenes]) + jitter[1]
    picture = cover * colour[:, :, None, None] + (1 - cover) * ground[:, :, None, None]
    return picture.clamp(0, 1)


def silhouettes(scenes: Sequence[Scene], seed: int) -> Tensor:
    """Where the shapes of `draw` with this seed are, (N, 1, 32, 32) in [0, 1]."""
    return _cover(scenes, torch.Generator().manual_seed(seed))


def _cover(scenes: Sequence[Scene], source: torch.Generator) -> Tensor:
    num = len(scenes)
    radius = 6 + 5 * torch.rand(num, generator=source)  # (N,) pixels
    free = SIZE / 2 - 1 - radius
    centre = SIZE / 2 + free[:, None] * (2 * torch.rand(num, 2, generator=source) - 1)  # (N, 2)
    places = (torch.arange(SIZE * OVERSAMPLING) + 0.5) / OVERSAMPLING
    down = (places[None, :] - centre[:, 1:]) / radius[:, None]  # (N, fine), in radii
    right = (places[None, :] - centre[:, :1]) / radius[:, None]
    covers = torch.stack(
        [_inside(scene.shape, down[i, :, None], right[i, None]) for i, scene in enumerate(scenes)]
    )
    return torch.nn.functional.avg_pool2d(covers[:, None].float(), OVERSAMPLING)


def _inside(shape: str, down: Tensor, right: Tensor) -> Tensor:
    if shape == "circle":
        return down.square() + right.square() <= 1
    if shape == "square":
        return (down.abs() <= 1) & (right.abs() <= 1)
    return (down <= 1) & (down >= 2 * right.abs() - 1)


def read(pictures: Tensor) -> list[dict[str, str | None]]:
    """Colour, shape and ground of each picture (N, 3, 32, 32) in [0, 1]; None for what has no name.

    The ground is the median of the border; the shape is the largest spot that differs from it, told
    by the share of its bounding box that it covers.
    """
    return [_read(picture) for picture in pictures.float()]


def _read(picture: Tensor) -> dict[str, str | None]:
    ground, distance = _from_ground(picture)
    found: dict[str, str | None] = {"ground": _nearest(ground, GROUNDS)}
    labelled: Any = ndimage.label((distance > 0.5 * distance.max()).numpy())
    spots, num = labelled
    areas = torch.tensor(ndimage.sum_labels(spots > 0, spots, range(1, num + 1)))
    if distance.max() < 0.2 or not num or areas.max() < FEWEST_PIXELS:
        return found | {"colour": None, "shape": None}
    spot = torch.from_numpy(spots == int(areas.argmax()) + 1)
    found["colour"] = _nearest(picture[:, spot].median(dim=1).values, COLOURS)
    full = distance[spot].median()
    near = torch.from_numpy(ndimage.binary_dilation(spot.numpy()))  # with its soft edge
    cover = near * (distance / full).clamp(0, 1)  # which counts by its share
    fill = float(cover.sum() / (cover.amax(dim=0).sum() * cover.amax(dim=1).sum()))
    shape, share = min(FILL.items(), key=lambda item: abs(item[1] - fill))
    return found | {"shape": shape if abs(share - fill) < 0.14 else None}


def _from_ground(picture: Tensor) -> tuple[Tensor, Tensor]:
    """The ground's colour (3,), and how far from it each pixel is, (32, 32)."""
    border = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)
    ground = border.median(dim=1).values
    return ground, (picture - ground[:, None, None]).square().sum(dim=0).sqrt()


def overlaps(pictures: Tensor, covers: Tensor) -> list[float]:
    """Intersection over union of what stands out of each picture's ground and a silhouette."""
    found = []
    for picture, cover in zip(pictures.float(), covers, strict=True):
        _, distance = _from_ground(picture)
        drawn, told = distance > 0.5 * distance.max(), cover[0] > 0.5
        found.append(float((drawn & told).sum() / (drawn | told).sum()))
    return found


def _nearest(colour: Tensor, names: dict[str, tuple[float, float, float]]) -> str | None:
    distances = {
        name: float((colour - torch.tensor(value)).norm()) for name, value in names.items()
    }
    name = min(distances, key=lambda key: distances[key])
    return name if distances[name] < FARTHEST_COLOUR else None


def accuracy(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of pictures with the told colour, shape, ground, and all three."""
    found = read(pictures)
    hits = [
        {word: one[word] == getattr(scene, word) for word in ("colour", "shape", "ground")}
        for one, scene in zip(found, scenes, strict=True)
    ]
    shares = {word: sum(hit[word] for hit in hits) / len(hits) for word in hits[0]}
    return shares | {"all": sum(all(hit.values()) for hit in hits) / len(hits)}
