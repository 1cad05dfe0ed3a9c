"""Captions of pictures: in a table, beside the pictures, in a column."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError
from pelap.data.load import load_pictures
from pelap.data.pictures import Pictures

SIZE = 8


def save(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (shade, shade, shade)).save(path)


def captions(folder: Path, **fields: str) -> tuple[str, ...] | None:
    return load(folder, **fields).captions


def load(folder: Path, **fields: str) -> Pictures:
    config = DataConfig(source="folder", path=str(folder), size=SIZE, **fields)  # type: ignore[arg-type]
    return load_pictures(config, seed=0).train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of shades 10, 20 and 30 to train on, one to test on."""
    for index in range(3):
        save(tmp_path / "train" / f"{index}.png", 10 * (index + 1))
    save(tmp_path / "test" / "0.png", 40)
    return tmp_path


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_a_table_names_the_files(folder: Path, name: str, column: str):
    rows = [{"file_name": f"{index}.png", column: f"shade {index}"} for index in (2, 0)]
    write_table(folder / "train" / name, rows)
    found = load(folder)
    assert found.captions == ("shade 0", "", "shade 2")
    assert found.fetch(torch.arange(3))[:, 0, 0, 0].tolist() == [10, 20, 30]


def test_captions_stay_with_their_pictures_in_class_folders(tmp_path: Path):
    rows = []
    for index, name in enumerate(["a/0.png", "a/1.png", "b/0.png"]):
        save(tmp_path / "train" / name, index)
        save(tmp_path / "test" / name, index)
        rows.append({"file_name": name, "text": f"shade {index}", "long": f"a shade of {index}"})
    write_table(tmp_path / "train" / "metadata.jsonl", rows)
    found = load(tmp_path)
    shades = found.fetch(torch.arange(3))[:, 0, 0, 0].tolist()
    assert found.captions == tuple(f"shade {shade}" for shade in shades)
    named = captions(tmp_path, caption_column="long")
    assert named == tuple(f"a shade of {shade}" for shade in shades)


def test_a_text_file_beside_each_picture(folder: Path):
    (folder / "train" / "1.txt").write_text(" middle\n grey \n")
    assert captions(folder) == ("", "middle grey", "")
    assert load_pictures(DataConfig(source="folder", path=str(folder), size=SIZE), 0).test.captions is None  # fmt: skip  # noqa: E501


def test_none_where_there_are_none(folder: Path):
    assert captions(folder) is None
    write_table(folder / "train" / "metadata.jsonl", [{"file_name": "0.png", "width": "8"}])
    assert captions(folder) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "cannot be read"), ('{"text": "a"}', "file_name"), ("[1]", "cannot be read"),
     ('{"file_name": "0.png", "text": "a"}', "has no column title: there are file_name, text")],
)  # fmt: skip
def test_bad_tables_are_one_line(folder: Path, content: str, says: str):
    (folder / "train" / "metadata.jsonl").write_text(content + "\n")
    with pytest.raises(DataError, match=says):
        captions(folder, caption_column="title")


def test_a_column_without_a_table(folder: Path):
    with pytest.raises(DataError, match=r"has no metadata\.jsonl or metadata\.csv"):
        captions(folder, caption_column="title")


@pytest.mark.parametrize("column", [None, "words"])
def test_a_column_of_a_data_set(tmp_path: Path, column: str | None):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", (SIZE, SIZE), (index,) * 3) for index in range(3)]
    columns = {"image": pictures, column or "text": ["one", None, ["three", "drei"][0]]}
    features = {"image": datasets.Image(), column or "text": datasets.Value("string")}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    for split in ("train", "test"):
        made.to_parquet(tmp_path / f"{split}.parquet")
    config = DataConfig(source="dataset", path=str(tmp_path), size=SIZE, caption_column=column)
    assert load_pictures(config, 0).train.captions == ("one", "", "three")
    with pytest.raises(DataError, match="has no column title"):
        load_pictures(DataConfig(source="dataset", path=str(tmp_path), size=SIZE, caption_column="title"), 0)  # fmt: skip  # noqa: E501
