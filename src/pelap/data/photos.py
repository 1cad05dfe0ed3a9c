"""Source photos: crops of the colour photographs inside scikit-image's wheel. No download."""

from importlib import resources

import numpy as np
import torch
from PIL import Image

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.core.seeding import generator
from pelap.data.decode import one_line, to_rgb
from pelap.data.pictures import DecodedPictures, PictureSource

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""The files of skimage/data that are in the wheel itself; its loaders would fetch others."""
NUM_TRAIN, NUM_TEST = 8192, 1024
TEST_SHARE = 0.2
"""Part of each photograph's width, on the right, that only test crops come from."""


def find_photos(config: DataConfig, seed: int) -> tuple[DecodedPictures, DecodedPictures]:
    """Random crops at full resolution; the class of a crop is its photograph.

    Train and test crops come from the left and the right part of each photograph, so that no
    pixel is in both. The classes take turns, so they are balanced.

    Raises:
        DataError: If the photographs are too small for crops of `config.size`, or not there.
    """
    photographs = [_read_photograph(name) for name in PHOTOGRAPHS]
    largest = min(min(photo.shape[0], photo.shape[1] // 2) for photo in photographs)
    if config.size > largest:
        raise DataError(
            f"--data.size is {config.size}: source photos can cut out at most {largest} pixels; "
            "take a smaller size or another --data.source."
        )
    train = _crops(photographs, config, config.num_train or NUM_TRAIN, seed, test=False)
    test = _crops(photographs, config, config.num_test or NUM_TEST, seed, test=True)
    return train, test


def _read_photograph(name: str) -> np.ndarray:
    try:
        with (resources.files("skimage") / "data" / name).open("rb") as file:
            return np.asarray(to_rgb(Image.open(file)))
    except (OSError, ImportError) as error:
        raise DataError(
            f"Photograph {name} of scikit-image cannot be read ({one_line(error)}): "
            "reinstall scikit-image or take another --data.source."
        ) from error


def _crops(
    photographs: list[np.ndarray], config: DataConfig, num_crops: int, seed: int, test: bool
) -> DecodedPictures:
    size, rows = config.size, torch.arange(num_crops)
    labels = rows % len(photographs)
    corners = torch.rand(num_crops, 2, generator=generator(seed, "photos", int(test)))
    for label, photo in enumerate(photographs):
        height, width = photo.shape[:2]
        border = width - max(round(TEST_SHARE * width), size)
        left, right = (border, width) if test else (0, border)
        of_photo = labels == label
        corners[of_photo, 0] *= height - size + 1
        corners[of_photo, 1] = left + corners[of_photo, 1] * (right - left - size + 1)
    corners = corners.long()

    def crop(row: int) -> np.ndarray:
        top, left = corners[row].tolist()
        return photographs[int(labels[row])][top : top + size, left : left + size]

    names = tuple(name.partition(".")[0] for name in PHOTOGRAPHS)
    return DecodedPictures(labels, names, rows, PictureSource(crop, size))
