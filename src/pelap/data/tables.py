"""Sources dataset and cifar10: parquet files read directly, other datasets through `datasets`.

pyarrow and datasets take a second to import, so the functions import them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.data.decode import decode_picture, one_line
from pelap.data.pictures import DecodedPictures

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img", "picture", "png", "jpg", "jpeg", "webp")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "target", "category", "fine_label")
TEST_SPLITS = ("test", "validation", "valid", "val")

HUB_ID = r"[\w-][\w.-]*(/[\w.-]+)?(?<!\.parquet)"
"""What may be NAME or OWNER/NAME on the hub; anything else is a path, and asks no network."""


@dataclass(frozen=True)
class _Table:
    """One split, undecoded."""

    name: str
    """What to call the split in messages."""
    arrow: "pa.Table"
    features: dict[str, Any]
    """What `datasets` says of the columns, e.g. {"label": {"_type": "ClassLabel", ...}}."""


def find_dataset(
    config: DataConfig, class_names: tuple[str, ...] = ()
) -> tuple[DecodedPictures, DecodedPictures | None]:
    """Pictures in a parquet file, a folder that `datasets` understands, or a dataset of the hub.

    Args:
        config: `path` names the dataset, `image_column` and `label_column` its columns where they
            cannot be told from the features or by their names. Without labels all is one class.
        class_names: Names of the labels 0, 1, … where the dataset has none.

    Returns:
        Train pictures, and test pictures where the dataset has a test or validation split.

    Raises:
        DataError: If the dataset, a split or a column is missing, or a label is.
    """
    if config.path is None:
        raise DataError(
            "--data.source dataset needs --data.path: a parquet file, folder or hub id."
        )
    train, test = _read_tables(config.path)
    image = _image_column(train, config.image_column)
    label = _label_column(train, config.label_column)
    tables = [train] if test is None else [train, test]
    for table in tables:
        _check_columns(table, [image] + ([label] if label else []))
    labels, names = _labels(tables, label, class_names)
    pictures = [
        _pictures(table, image, part, names, config)
        for table, part in zip(tables, labels, strict=True)
    ]
    return pictures[0], pictures[1] if test is not None else None


def _pictures(
    table: _Table, image: str, labels: Tensor, names: tuple[str, ...], config: DataConfig
) -> DecodedPictures:
    column = table.arrow.column(image)
    decode = partial(_decode_row, column, table.name, config.size, config.resize)
    return DecodedPictures(labels, names, torch.arange(len(column)), decode, config.size)


def _decode_row(
    column: "pa.ChunkedArray", table_name: str, size: int, resize: bool, row: int
) -> np.ndarray:
    name = f"Row {row} of {table_name}"
    value = column[row].as_py()
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value or not isinstance(value, bytes | str):
        raise DataError(f"{name} holds no picture.")
    return decode_picture(Path(value) if isinstance(value, str) else value, name, size, resize)


# Where the rows are


def _read_tables(path: str) -> tuple[_Table, _Table | None]:
    local = Path(path).expanduser()
    if local.is_file():
        splits = {"train": [local]}
    elif local.is_dir():
        splits = _parquet_splits(local)
    else:
        splits = {}
    if not local.exists() and not re.fullmatch(HUB_ID, path):
        raise DataError(f"--data.path is {path}: there is no such file or folder.")
    if splits:
        tables = {
            split: _read_parquet(files, f"{path} ({split})") for split, files in splits.items()
        }
    else:
        tables = _load_dataset(path, is_local=local.exists())
    return _choose_splits(tables, path)


def _choose_splits(tables: dict[str, _Table], path: str) -> tuple[_Table, _Table | None]:
    if "train" not in tables and len(tables) != 1:
        raise DataError(f"{path} has no split train: there are {', '.join(tables)}.")
    train = tables.get("train") or next(iter(tables.values()))
    test = next((tables[name] for name in TEST_SPLITS if name in tables), None)
    for table in (train, test):
        if table is not None and table.arrow.num_rows == 0:
            raise DataError(f"{table.name} holds no pictures.")
    return train, test if test is not train else None


def _parquet_splits(folder: Path) -> dict[str, list[Path]]:
    """The parquet files by the split that their name, or a folder's, holds as a word."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.parquet")):
        words = re.split(r"[^a-z]+", str(file.relative_to(folder)).lower())
        split = next((word for word in words if word in ("train", *TEST_SPLITS)), "train")
        splits.setdefault(split, []).append(file)
    return splits


def _read_parquet(files: list[Path], name: str) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name} cannot be read as parquet: {one_line(error)}.") from error
    metadata = json.loads((arrow.schema.metadata or {}).get(b"huggingface", b"{}"))
    return _Table(name, arrow, metadata.get("info", {}).get("features") or {})


def _load_dataset(path: str, is_local: bool) -> dict[str, _Table]:
    import datasets

    try:
        loaded = datasets.load_dataset(path)
    except Exception as error:  # datasets, huggingface_hub and httpx each have their own
        reason = f"{type(error).__name__}: {one_line(error)}"
        if is_local:
            raise DataError(f"{path} cannot be read as a dataset ({reason}).") from error
        raise DataError(
            f"There is no file or folder {path}, and the Hugging Face hub gave no dataset of that "
            f"name ({reason}): give a local folder or parquet file with --data.path."
        ) from error
    return {
        str(split): _Table(
            f"{path} ({split})", part.data.table, cast(dict[str, Any], part.features.to_dict())
        )
        for split, part in loaded.items()
    }


# What the columns mean


def _image_column(table: _Table, asked: str | None) -> str:
    if asked is not None:
        return asked
    columns = table.arrow.column_names
    typed = [name for name in columns if table.features.get(name, {}).get("_type") == "Image"]
    named = [name for name in IMAGE_COLUMNS if name in columns]
    if not typed and not named:
        raise DataError(
            f"{table.name} has no column known to hold pictures: "
            f"name one of {', '.join(columns)} with --data.image-column."
        )
    return (typed or named)[0]


def _label_column(table: _Table, asked: str | None) -> str | None:
    if asked is not None:
        return asked
    columns = table.arrow.column_names
    typed = [name for name in columns if table.features.get(name, {}).get("_type") == "ClassLabel"]
    named = [name for name in LABEL_COLUMNS if name in columns]
    return next(iter(typed + named), None)


def _check_columns(table: _Table, wanted: Sequence[str]) -> None:
    columns = table.arrow.column_names
    for name in wanted:
        if name not in columns:
            raise DataError(f"{table.name} has no column {name}: there are {', '.join(columns)}.")


def _labels(
    tables: list[_Table], column: str | None, fallback: tuple[str, ...]
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Labels of each table as indices into the class names they share."""
    if column is None:
        return [torch.zeros(table.arrow.num_rows, dtype=torch.long) for table in tables], ("all",)
    values = [table.arrow.column(column).to_pylist() for table in tables]
    names = tuple(tables[0].features.get(column, {}).get("names") or fallback)
    if names:
        known = {index: index for index in range(len(names))}
    else:
        found = {value for part in values for value in part if isinstance(value, int | str)}
        ordered = sorted(found, key=lambda value: (isinstance(value, str), value))
        known = {value: index for index, value in enumerate(ordered)}
        names = tuple(str(value) for value in ordered)
    return [
        torch.tensor([_index(value, known, table, column) for value in part])
        for table, part in zip(tables, values, strict=True)
    ], names


def _index(value: Any, known: dict[Any, int], table: _Table, column: str) -> int:
    if not isinstance(value, int | str) or value not in known:
        raise DataError(
            f"{table.name} has the label {value!r} in column {column}, which names no class: "
            "leave such rows out or give another --data.label-column."
        )
    return known[value]
