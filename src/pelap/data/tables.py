"""Sources dataset and cifar10: parquet files read directly, other datasets through `datasets`.

`datasets` would copy each parquet file into its cache and is imported in a second and a half:
CIFAR-10 is open in 0.2 s of a processor's time without it, in 0.8 s with it. The functions
import what they need.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.core.json_values import JsonObject
from pelap.data.decode import BrokenPictureError, EncodedPicture, one_line
from pelap.data.folders import CAPTION_COLUMNS, TEST_SPLITS, TRAIN_SPLITS, files_key
from pelap.data.pictures import DecodedPictures, PictureSource

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img", "picture", "png", "jpg", "jpeg", "webp")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "target", "category", "fine_label")
NO_LABEL = (None, -1)
"""What stands for a label where there is none."""
SAVED = ("dataset_dict.json", "state.json")
"""In folders that `save_to_disk` of `datasets` writes."""

HUB_ID = r"[\w-][\w.-]*(/[\w.-]+)?(?<!\.parquet)"
"""What may be NAME or OWNER/NAME on the hub; anything else is a path, and asks no network."""


@dataclass(frozen=True)
class _Table:
    """One split, undecoded."""

    name: str
    """What to call the split in messages."""
    arrow: "pa.Table"
    features: JsonObject
    """What `datasets` says of the columns, e.g. {"label": {"_type": "ClassLabel", ...}}."""
    folder: Path
    """Where the paths of its pictures begin."""
    key: Callable[[], str] | None = None
    """Of its content as it is now; None where that cannot be told."""

    def find_column(self, kind: str, names: tuple[str, ...]) -> str | None:
        """The first column of a kind of feature, or else with one of some names; None for none."""
        columns = self.arrow.column_names
        typed = [name for name in columns if self.features.get(name, {}).get("_type") == kind]
        return next((name for name in (*typed, *names) if name in columns), None)


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
    read = _read_tables(config.path)
    tables = _choose_splits(read, config)
    first, columns = tables[0], ", ".join(tables[0].arrow.column_names)
    image = config.image_column or first.find_column("Image", IMAGE_COLUMNS)
    if image is None:
        raise DataError(
            f"{first.name} has no column known to hold pictures: "
            f"name one of {columns} with --data.image-column."
        )
    label = _label_column(config, first)
    for table in tables:
        columns = table.arrow.column_names
        for name in (image, label):
            if name is not None and name not in columns:
                there = ", ".join(columns)
                raise DataError(f"{table.name} has no column {name}: there are {there}.")
    caption = config.caption_column or first.find_column("", CAPTION_COLUMNS)
    if caption is not None and caption not in first.arrow.column_names:
        there = ", ".join(first.arrow.column_names)
        raise DataError(f"{first.name} has no column {caption}: there are {there}.")
    labels, names = _labels(tables, label, class_names)
    train, *test = (
        _pictures(table, image, part, names, config, caption)
        for table, part in zip(tables, labels, strict=True)
    )
    return train, test[0] if test else None


def _pictures(
    table: _Table,
    image: str,
    labels: Tensor,
    names: tuple[str, ...],
    config: DataConfig,
    caption: str | None,
) -> DecodedPictures:
    column = table.arrow.column(image)

    def picture(row: int) -> EncodedPicture:
        name, value = f"Row {row} of {table.name}", column[row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value or not isinstance(value, bytes | str):
            raise BrokenPictureError(name, f"row {row}", "it holds no picture")
        encoded = table.folder / value if isinstance(value, str) else value
        return EncodedPicture(encoded, name, f"row {row}")

    def decode(row: int) -> np.ndarray:
        return picture(row).decode(config.size, config.resize)

    def check(row: int) -> None:
        picture(row).check(config.size, config.resize)

    captions = None
    if caption is not None and caption in table.arrow.column_names:
        captions = tuple(map(_caption, table.arrow.column(caption).to_pylist()))

    def key() -> str | None:
        if table.key is None or not _holds_bytes(column):
            return None
        return f"{config.resize} {image} {table.key()}"

    source = PictureSource(decode, config.size, check, key)
    return DecodedPictures(labels, names, torch.arange(len(column)), source, captions=captions)


def _holds_bytes(column: "pa.ChunkedArray") -> bool:
    """Whether all pictures stand in the table, and not in files that it names."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        place = column.type.get_field_index("bytes")
        column = column.flatten()[place] if place >= 0 else column
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return is_bytes and column.null_count == 0


def _caption(value: object) -> str:
    """A cell's text, the first of several."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, str) else ""


# Where the rows are


def _read_tables(path: str) -> dict[str, _Table]:
    local = Path(path).expanduser()
    if not local.exists() and not re.fullmatch(HUB_ID, path):
        raise DataError(f"--data.path is {path}: there is no such file or folder.")
    if local.exists() and not local.is_file() and not local.is_dir():
        raise DataError(f"--data.path is {path}, which is neither a file nor a folder.")
    files = {"train": [local]} if local.is_file() else _parquet_splits(local)
    if not files:
        return _load_dataset(path, local if local.exists() else None)
    return {split: _read_parquet(found, f"{path} ({split})") for split, found in files.items()}


def _choose_splits(tables: dict[str, _Table], config: DataConfig) -> list[_Table]:
    """The table to train on, and the one to test on where there is one: with labels, if the first
    has them and another test split too."""
    by_name = {name.lower(): table for name, table in tables.items()}
    train = next((by_name[name] for name in TRAIN_SPLITS if name in by_name), None)
    if train is None:
        if len(tables) != 1:
            there = ", ".join(tables)
            raise DataError(f"{config.path} has no split train: there are {there}.")
        train = next(iter(tables.values()))
    tests = [by_name[name] for name in TEST_SPLITS if name in by_name]
    label = _label_column(config, train)
    tests.sort(key=lambda table: label is not None and not _has_labels(table, label))
    chosen = [train, *(table for table in tests if table is not train)][:2]
    for table in chosen:
        if table.arrow.num_rows == 0:
            raise DataError(f"{table.name} holds no pictures.")
    return chosen


def _parquet_splits(folder: Path) -> dict[str, list[Path]]:
    """The parquet files by the split that their name, or a folder's, holds as a word."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(path for path in folder.rglob("*.parquet") if path.is_file()):
        words = re.split(r"[^a-z]+", str(file.relative_to(folder)).lower())
        split = next((word for word in words if word in (*TRAIN_SPLITS, *TEST_SPLITS)), "train")
        splits.setdefault(split, []).append(file)
    return splits


def _read_parquet(files: list[Path], name: str) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name} cannot be read as parquet: {one_line(error)}.") from error
    metadata = _loads((arrow.schema.metadata or {}).get(b"huggingface", b"{}"))
    info = metadata.get("info") if isinstance(metadata, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return _Table(name, arrow, _plain(features), files[0].parent, lambda: files_key(files))


def _loads(text: bytes) -> Any:
    """The note that `datasets` writes into a file; what is no JSON says nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _plain(features: Any) -> JsonObject:
    """What is said of columns that hold one kind of value, not of nested ones."""
    pairs = features.items() if isinstance(features, dict) else ()
    return {
        name: found
        for name, found in pairs
        if isinstance(found, dict) and isinstance(found.get("names") or [], list)
    }


def _load_dataset(path: str, local: Path | None) -> dict[str, _Table]:
    import datasets

    loaded: Any
    try:
        if local is not None and any((local / name).is_file() for name in SAVED):
            loaded = datasets.load_from_disk(str(local))
        else:
            loaded = datasets.load_dataset(path)
    except Exception as error:  # datasets, huggingface_hub and httpx each have their own
        reason = f"{type(error).__name__}: {one_line(error)}{_cause(error)}"
        if local is not None:
            raise DataError(f"{path} cannot be read as a dataset ({reason}).") from error
        raise DataError(
            f"There is no file or folder {path}, and the Hugging Face hub gave no dataset of that "
            f"name ({reason}): give a local folder or parquet file with --data.path."
        ) from error
    parts = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {
        str(split): _Table(
            f"{path} ({split})",
            part.flatten_indices().data.table,
            _plain(part.features.to_dict()),
            local or Path(),
            partial(getattr, part, "_fingerprint"),
        )
        for split, part in parts.items()
    }


def _cause(error: BaseException) -> str:
    """What first went wrong behind an error, where that is another one."""
    first = error
    while (behind := first.__cause__ or first.__context__) is not None:
        first = behind
    return "" if first is error else f"; {type(first).__name__}: {one_line(first)}"


# What the labels mean


def _label_column(config: DataConfig, table: _Table) -> str | None:
    """The column of labels; None if there is none, or none is to be read."""
    if not config.labels:
        return None
    return config.label_column or table.find_column("ClassLabel", LABEL_COLUMNS)


def _has_labels(table: _Table, column: str) -> bool:
    """Whether any row of the table has a label."""
    if column not in table.arrow.column_names:
        return False
    return any(value not in NO_LABEL for value in table.arrow.column(column).to_pylist())


def _labels(
    tables: list[_Table], column: str | None, fallback: tuple[str, ...]
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Labels of each table as indices into the class names they share."""
    if column is None:
        return [torch.zeros(table.arrow.num_rows, dtype=torch.long) for table in tables], ("all",)
    values = [table.arrow.column(column).to_pylist() for table in tables]
    names = tuple(map(str, tables[0].features.get(column, {}).get("names") or fallback))
    if names:
        classes: list[int | str] = list(range(len(names)))
    else:
        known = {value for part in values for value in part if isinstance(value, int | str)}
        classes = sorted(known, key=lambda value: (isinstance(value, str), value))
        names = tuple(map(str, classes))
    indices = {value: index for index, value in enumerate(classes)}
    for table, part in zip(tables, values, strict=True):
        for value in part:
            if not isinstance(value, int | str) or value not in indices:
                raise DataError(
                    f"{table.name} has the label {value!r} in column {column}, which names no "
                    "class: leave such rows out, give another --data.label-column, or read none "
                    "with --data.no-labels."
                )
    return [torch.tensor([indices[value] for value in part]) for part in values], names
