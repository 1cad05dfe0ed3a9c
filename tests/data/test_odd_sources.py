"""Folders and data sets as people really have them."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.data.load import load_pictures


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)


def load(source: str, path: Path, **more: object) -> tuple[int, int, tuple[str, ...]]:
    """Train pictures, test pictures, class names."""
    found = load_pictures(DataConfig(source, str(path), 8, **more), 0)  # type: ignore[arg-type]
    return len(found.train), len(found.test), found.train.class_names


@pytest.mark.parametrize("hidden", ["cat/.ipynb_checkpoints/0.png", ".ipynb_checkpoints/0.png"])
def test_hidden_folders_are_left_out(tmp_path: Path, hidden: str):
    for number in range(10):
        picture(tmp_path / "cat" / f"{number}.png")
    picture(tmp_path / hidden)
    assert load("folder", tmp_path) == (9, 1, ("cat",))


def test_a_linked_folder_in_a_class_is_followed_but_no_circle(tmp_path: Path):
    for number in range(5):
        picture(tmp_path / "root" / "cat" / f"{number}.png")
        picture(tmp_path / "more" / f"{number}.png")
    (tmp_path / "root" / "cat" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "root" / "cat" / "again").symlink_to(tmp_path / "root" / "cat")
    assert load("folder", tmp_path / "root") == (9, 1, ("cat",))


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "Test"), ("training", "dev"), ("TRAIN", "eval"), ("train", "val")]
)
def test_splits_are_known_by_many_names(tmp_path: Path, train: str, test: str):
    for number in range(3):
        picture(tmp_path / train / "cat" / f"{number}.png")
    picture(tmp_path / test / "cat" / "0.png")
    assert load("folder", tmp_path) == (3, 1, ("cat",))


@pytest.mark.parametrize("suffix", [".jfif", ".jp2", ".tga", ".ico"])
def test_rarer_formats_are_opened(tmp_path: Path, suffix: str):
    image = Image.new("RGB", (8, 8), "red")
    kind = {".jfif": "JPEG", ".jp2": "JPEG2000", ".tga": "TGA", ".ico": "ICO"}[suffix]
    for number in range(2):
        image.save(tmp_path / f"{number}{suffix}", kind)
    assert load("folder", tmp_path) == (1, 1, ("all",))


def table(labels: list[object], kind: object = None) -> datasets.Dataset:
    images = [Image.new("RGB", (8, 8)) for _ in labels]
    label = kind or datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def test_a_test_split_without_labels_gives_way_to_one_with(tmp_path: Path):
    table([0, 1, 0]).to_parquet(str(tmp_path / "train.parquet"))
    table([-1] * 4).to_parquet(str(tmp_path / "test.parquet"))
    table([0, 1]).to_parquet(str(tmp_path / "validation.parquet"))
    assert load("dataset", tmp_path) == (3, 2, ("a", "b"))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, None, 1], None),
        ([0, -1, 1], None),
        ([0.5, 1.5, 2.5], datasets.Value("float32")),
        ([[0], [1], [0, 1]], datasets.Sequence(datasets.Value("int64"))),
    ],
)
def test_labels_that_name_no_class_can_be_left_unread(
    tmp_path: Path, labels: list[object], kind: object
):
    table(labels, kind).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(DataError, match=r"--data\.no-labels"):
        load("dataset", tmp_path)
    assert load("dataset", tmp_path, labels=False) == (2, 1, ("all",))


def test_what_save_to_disk_wrote_is_read(tmp_path: Path):
    table([0, 1, 0]).select([0, 2]).save_to_disk(str(tmp_path / "one"))
    assert load("dataset", tmp_path / "one") == (1, 1, ("a", "b"))
    both = datasets.DatasetDict({"train": table([0, 1, 0]), "test": table([1])})
    both.save_to_disk(str(tmp_path / "two"))
    assert load("dataset", tmp_path / "two") == (3, 1, ("a", "b"))
