"""Source folder: picture files in class folders."""

from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.data.decode import decode_picture
from pelap.data.pictures import DecodedPictures

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TEST_FOLDERS = ("test", "val", "validation", "valid")


def find_folder(config: DataConfig) -> tuple[DecodedPictures, DecodedPictures | None]:
    """PATH/train/CLASS/… and PATH/test/CLASS/… (or val, validation), or else PATH/CLASS/….

    A folder without class folders is one class, "all". The classes take turns, so that the first
    so many pictures hold all of them. Files that are hidden or have another suffix are left out.
    The imagefolder of `datasets` takes 60 times as long to open 10,000 files, sorts files into
    splits by words in their names, and names a class after the innermost folder.

    Returns:
        Train pictures, and test pictures where there is a folder for them.

    Raises:
        DataError: If there is no such folder, or no picture in it.
    """
    if config.path is None:
        raise DataError("--data.source folder needs --data.path FOLDER.")
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"--data.path is {config.path}: there is no such folder.")
    splits = [root]
    if (root / "train").is_dir():
        tests = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
        splits = [root / "train", *tests[:1]]
    by_split = [_paths_by_class(folder) for folder in splits]
    names = tuple(sorted({name for classes in by_split for name in classes}))
    train, *test = (_pictures(classes, names, config) for classes in by_split)
    return train, test[0] if test else None


def _paths_by_class(folder: Path) -> dict[str, list[Path]]:
    loose = [path for path in sorted(folder.iterdir()) if _is_picture(path)]
    classes = {
        child.name: [path for path in sorted(child.rglob("*")) if _is_picture(path)]
        for child in sorted(folder.iterdir())
        if child.is_dir()
    }
    classes = {name: paths for name, paths in classes.items() if paths}
    if loose and classes:
        raise DataError(
            f"{folder} holds class folders and also loose pictures, as {loose[0].name}: "
            "move those into class folders."
        )
    if not loose and not classes:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
    return classes or {"all": loose}


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pictures(
    classes: dict[str, list[Path]], names: tuple[str, ...], config: DataConfig
) -> DecodedPictures:
    labelled = [[(path, names.index(name)) for path in paths] for name, paths in classes.items()]
    in_turns = [pair for pair in chain(*zip_longest(*labelled)) if pair is not None]
    labels = torch.tensor([label for _, label in in_turns])

    def decode(row: int) -> np.ndarray:
        path, _ = in_turns[row]
        return decode_picture(path, str(path), config.size, config.resize)

    return DecodedPictures(labels, names, torch.arange(len(in_turns)), decode, config.size)
