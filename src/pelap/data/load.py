"""From the config to the pictures of both splits."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.core.notes import note_once
from pelap.core.seeding import generator
from pelap.data.decode import BrokenPictureError
from pelap.data.folders import find_folder
from pelap.data.photos import find_photos
from pelap.data.pictures import DecodedPictures, Splits
from pelap.data.tables import find_dataset
from pelap.data.whole import decode_whole, describe_broken, select_whole

CIFAR10_HUB_ID = "uoft-cs/cifar10"
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # fmt: skip  # noqa: E501


def load_pictures(config: DataConfig, seed: int) -> Splits:
    """The pictures of both splits, decoded into memory if `config.memory_gb` has room for them.

    A source without a test split gives a tenth of its pictures, drawn by `seed`, for it. Broken
    pictures are left out, aloud, or refused where `config.strict` is on.

    Raises:
        DataError: If pictures cannot be found, read or used at the asked size. One line.
    """
    train, test = _find(config, seed)
    if test is None:
        train, test = _hold_out_tenth(train, seed)
    num_train, num_test = config.num_train or len(train), config.num_test or len(test)
    num_bytes = (min(num_train, len(train)) + min(num_test, len(test))) * 3 * config.size**2
    take = decode_whole if num_bytes <= config.memory_gb * 1e9 else select_whole
    train_taken, broken = take(train, num_train, config.strict)
    test_taken, broken_too = take(test, num_test, config.strict)
    broken += broken_too
    if broken:
        num = len(train_taken) + len(test_taken) + len(broken)
        note_once(describe_broken(broken, num))
    return Splits(train_taken, test_taken, tuple(error.place for error in broken))


def _find(config: DataConfig, seed: int) -> tuple[DecodedPictures, DecodedPictures | None]:
    match config.source:
        case "photos":
            return find_photos(config, seed)
        case "folder":
            return find_folder(config)
        case "cifar10":
            return _find_cifar10(config)
        case "dataset":
            return find_dataset(config)


def _find_cifar10(config: DataConfig) -> tuple[DecodedPictures, DecodedPictures | None]:
    path, root = config.path, os.environ.get("PELAP_DATA")
    if path is None and root and (Path(root) / "cifar10").is_dir():
        path = str(Path(root) / "cifar10")
    columns = replace(config, path=path or CIFAR10_HUB_ID, image_column="img", label_column="label")
    try:
        return find_dataset(columns, CIFAR10_CLASSES)
    except DataError as error:
        if path is not None:
            raise
        raise DataError(f"{error} Or set PELAP_DATA to the folder that holds cifar10.") from error


def _hold_out_tenth(
    pictures: DecodedPictures, seed: int
) -> tuple[DecodedPictures, DecodedPictures]:
    if len(pictures) < 2:
        raise DataError(
            "There is 1 picture and no test split: at least 2 are needed, one for each split."
        )
    # The stream of the photos source, which never needs this.
    order = torch.randperm(len(pictures), generator=generator(seed, "photos"))
    rows = pictures.rows[order].tolist()
    first_whole = next((place for place, row in enumerate(rows) if _is_whole(pictures, row)), 0)
    num_test = min(max(1, len(pictures) // 10, first_whole + 1), len(pictures) - 1)
    test, train = order[:num_test].sort().values, order[num_test:].sort().values
    return pictures.select(train), pictures.select(test)


def _is_whole(pictures: DecodedPictures, row: int) -> bool:
    try:
        if pictures.source.check is not None:
            pictures.source.check(row)
    except BrokenPictureError:
        return False
    return True
