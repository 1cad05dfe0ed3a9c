"""Source folder: picture files in class folders, with captions in a table or beside them."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.data.decode import EncodedPicture, one_line
from pelap.data.pictures import DecodedPictures, PictureSource

SUFFIXES = {
    ".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo", ".pgm",
    ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
CAPTION_COLUMNS = ("text", "caption", "prompt")
TABLES = ("metadata.jsonl", "metadata.csv")
TRAIN_SPLITS = ("train", "training")
TEST_SPLITS = ("test", "testing", "validation", "valid", "val", "dev", "eval")
"""Names of the splits, the one to be taken first."""


def find_folder(config: DataConfig) -> tuple[DecodedPictures, DecodedPictures | None]:
    """PATH/train/CLASS/… and PATH/test/CLASS/… (or as TRAIN_SPLITS and TEST_SPLITS have it, in any
    case), or else PATH/CLASS/….

    A folder without class folders is one class, "all". The classes take turns, so that the first
    so many pictures hold all of them. Links are followed; what is hidden, or lies in a hidden
    folder, or has another suffix, is left out.
    Captions stand in metadata.jsonl or metadata.csv, by `file_name` relative to it, or in a .txt
    beside each picture.
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
    if root.is_file():
        raise DataError(
            f"--data.path is {config.path}, a file: give the folder that holds the pictures, "
            f"{root.parent}."
        )
    if not root.is_dir():
        raise DataError(f"--data.path is {config.path}: there is no such folder.")
    folders = {child.name.lower(): child for child in sorted(root.iterdir()) if child.is_dir()}
    train = next((folders[name] for name in TRAIN_SPLITS if name in folders), None)
    tests = [folders[name] for name in TEST_SPLITS if name in folders]
    splits = [root] if train is None else [train, *tests[:1]]
    by_split = [_paths_by_class(folder) for folder in splits]
    names = tuple(sorted({name for classes in by_split for name in classes}))
    captions = _captions(root, config.caption_column)
    pictures, *test = (_pictures(classes, names, config, captions) for classes in by_split)
    return pictures, test[0] if test else None


def _paths_by_class(folder: Path) -> dict[str, list[Path]]:
    loose = [path for path in sorted(folder.iterdir()) if _is_picture(path)]
    classes = {
        child.name: [path for path in _files_below(child) if _is_picture(path)]
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
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


def _files_below(folder: Path) -> list[Path]:
    """Files in a folder and in those below it, sorted; links are followed, but in no circle."""
    found, been = [], {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            target = os.path.realpath(Path(place) / name)
            if not name.startswith(".") and target not in been:
                been.add(target)
                kept.append(name)
        folders[:] = kept
        found += [Path(place) / name for name in files]
    return sorted(found)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pictures(
    classes: dict[str, list[Path]],
    names: tuple[str, ...],
    config: DataConfig,
    captions: dict[Path, str],
) -> DecodedPictures:
    labelled = [[(path, names.index(name)) for path in paths] for name, paths in classes.items()]
    in_turns = [pair for pair in chain(*zip_longest(*labelled)) if pair is not None]
    labels = torch.tensor([label for _, label in in_turns])

    def picture(row: int) -> EncodedPicture:
        path, _ = in_turns[row]
        return EncodedPicture(path, str(path), path.name)

    def decode(row: int) -> np.ndarray:
        return picture(row).decode(config.size, config.resize)

    def check(row: int) -> None:
        picture(row).check(config.size, config.resize)

    said = tuple(captions.get(p) or captions.get(p.with_suffix(""), "") for p, _ in in_turns)
    rows, told = torch.arange(len(in_turns)), said if any(said) else None

    def key() -> str:
        return f"{config.resize} {files_key(path for path, _ in in_turns)}"

    source = PictureSource(decode, config.size, check, key)
    return DecodedPictures(labels, names, rows, source, captions=told)


def files_key(paths: Iterable[Path]) -> str:
    """What changes whenever one of the files does: names, sizes and times."""
    found = hashlib.sha256()
    for path in paths:
        facts = path.stat()
        found.update(f"{path.absolute()}\0{facts.st_size} {facts.st_mtime_ns}\0".encode())
    return found.hexdigest()


def _captions(root: Path, column: str | None) -> dict[Path, str]:
    """Captions by the picture's path, or by its path without suffix where a .txt holds it.

    Raises:
        DataError: If a table cannot be read, or has no such column.
    """
    found: dict[Path, str] = {}
    tables = []
    for path in _files_below(root):
        if path.name in TABLES and path.is_file():
            tables.append(path)
        elif path.suffix == ".txt" and path.is_file():
            found[path.with_suffix("")] = " ".join(path.read_text("utf-8", "replace").split())
    if column is not None and not tables:
        raise DataError(
            f"--data.caption-column is {column}, but {root} has no {' or '.join(TABLES)}."
        )
    for table in tables:
        found |= _rows(table, column)
    return found


def _rows(table: Path, column: str | None) -> dict[Path, str]:
    """Captions in a table, by the picture's path."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            if table.suffix == ".csv":
                rows = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
        names = [row["file_name"] for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{table} cannot be read ({one_line(error)}): each row needs a file_name."
        ) from error
    wanted = (column,) if column is not None else CAPTION_COLUMNS
    there = dict.fromkeys(key for row in rows for key in row)
    chosen = next((name for name in wanted if name in there), None)
    if chosen is None and column is not None:
        raise DataError(f"{table} has no column {column}: there are {', '.join(there)}.")
    if chosen is None:
        return {}
    pairs = zip(names, rows, strict=True)
    return {table.parent / name: str(row.get(chosen) or "") for name, row in pairs}
