"""Broken pictures are left out, aloud, and the same ones whether pictures lie in memory or not."""

import json
import os
import re
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pelap.config.run_config import DataConfig, RunConfig
from pelap.core.cache import cache_folder
from pelap.core.errors import DataError
from pelap.core.notes import note_once
from pelap.data.load import load_pictures
from pelap.data.pictures import Pictures, Splits
from pelap.models.model_pictures import describe_pictures

SIZE = 16
LAZY = 1e-9


def encoded(number: int, kind: str = "JPEG") -> bytes:
    """A picture of one colour, by which it is told from the others."""
    noise = np.random.default_rng(number).integers(0, 9, (SIZE, SIZE, 3))
    file = BytesIO()
    Image.fromarray((noise + 12 * number).astype(np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of class a and ten of class b, with captions; 3 and 14 are broken."""
    root, rows = tmp_path / "pictures", []
    for number in range(20):
        name = f"{'ab'[number // 10]}/{number:02}.jpg"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(number))
        rows.append(json.dumps({"file_name": name, "text": f"number {number}"}))
    (root / "metadata.jsonl").write_text("\n".join(rows))
    (root / "a" / "03.jpg").write_bytes(encoded(3)[:400])
    (root / "b" / "14.jpg").write_text("<html>not found</html>")
    return root


def load(path: Path, source: str = "folder", **more: object) -> Splits:
    note_once.cache_clear()
    return load_pictures(DataConfig(source, str(path), SIZE, **more), 0)  # type: ignore[arg-type]


def numbers(pictures: Pictures) -> list[int]:
    """Which pictures these are, by their colours."""
    pixels = pictures.fetch(torch.arange(len(pictures))).float()
    return [round((mean - 4) / 12) for mean in pixels.mean((1, 2, 3)).tolist()]


@pytest.mark.parametrize("memory", [1.0, LAZY])
def test_broken_ones_are_left_out_and_named(
    folder: Path, memory: float, capsys: pytest.CaptureFixture[str]
):
    splits = load(folder, memory_gb=memory)
    said = capsys.readouterr().err
    assert "2 of 20 pictures cannot be read and are left out" in said
    assert str(folder / "a" / "03.jpg") in said
    assert str(folder / "b" / "14.jpg") in said
    assert said.count("\n") == 1
    assert sorted(splits.left_out) == ["03.jpg", "14.jpg"]
    assert sorted(numbers(splits.train) + numbers(splits.test)) == [
        number for number in range(20) if number not in (3, 14)
    ]


def test_labels_and_captions_stay_with_their_pictures(folder: Path):
    for memory in (1.0, LAZY):
        for pictures in (load(folder, memory_gb=memory).train, load(folder, memory_gb=memory).test):
            found = numbers(pictures)
            assert pictures.labels.tolist() == [number // 10 for number in found]
            assert pictures.captions == tuple(f"number {number}" for number in found)


def test_in_memory_or_not_the_pictures_are_the_same(folder: Path):
    several: list[dict[str, Any]] = [{}, {"num_train": 7, "num_test": 1}, {"num_train": 1}]
    for more in several:
        kept, again = load(folder, **more), load(folder, memory_gb=LAZY, **more)
        for one, other in ((kept.train, again.train), (kept.test, again.test)):
            indices = torch.arange(len(one))
            assert torch.equal(one.fetch(indices), other.fetch(indices))
            assert torch.equal(one.labels, other.labels)
            assert one.captions == other.captions
        assert kept.left_out == again.left_out


def test_the_first_so_many_are_so_many_whole_ones(folder: Path):
    (folder / "a").rename(folder.parent / "only")
    found = load(folder.parent / "only", num_train=5)
    assert len(found.train) == 5
    assert 3 not in numbers(found.train)


@pytest.mark.parametrize("memory", [1.0, LAZY])
def test_strict_refuses_the_first(folder: Path, memory: float):
    with pytest.raises(DataError, match=r"(03|14)\.jpg cannot be read as a picture"):
        load(folder, memory_gb=memory, strict=True)


@pytest.mark.parametrize("memory", [1.0, LAZY])
def test_where_all_are_broken_one_line_says_so(tmp_path: Path, memory: float):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, "PNG")[:90])
    with pytest.raises(DataError, match=r"^None of \d pictures can be read: .*\.png cannot") as it:
        load(tmp_path, memory_gb=memory)
    assert "\n" not in str(it.value)


def test_what_was_left_out_stands_in_records(folder: Path):
    for path in sorted((folder / "a").iterdir())[:8]:
        path.write_bytes(b"")
    config = RunConfig(data=DataConfig("folder", str(folder), SIZE))
    said = describe_pictures(config, load(folder))
    names = re.fullmatch(r"folder pictures, 16 pixels, without 9 broken: (.*) and 6 more", said)
    assert names is not None
    assert len(re.findall(r"\d\d\.jpg", names[1])) == 3


def test_many_broken_ones_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]):
    for path in sorted((folder / "a").iterdir())[:8]:
        path.write_bytes(b"")
    load(folder)
    said = capsys.readouterr().err
    assert "9 of 20 pictures" in said
    assert "6 more" in said


@pytest.mark.parametrize("memory", [1.0, LAZY])
def test_rows_of_a_table_are_left_out_with_their_labels(tmp_path: Path, memory: float):
    cells = [encoded(number, "PNG") for number in range(12)]
    cells[2], cells[5], cells[7] = b"", cells[5][:70], None  # type: ignore[call-overload]
    table = pa.table({"image": pa.array(cells, pa.binary()), "label": list(range(12))})
    pq.write_table(table, tmp_path / "train.parquet")
    splits = load(tmp_path, "dataset", memory_gb=memory)
    for pictures in (splits.train, splits.test):
        assert pictures.labels.tolist() == numbers(pictures)
    assert sorted(splits.left_out) == ["row 2", "row 5", "row 7"]


@pytest.mark.parametrize(
    "note",
    [
        b"{",
        b"[]",
        b'{"info": 3}',
        b'{"info": {"features": [1]}}',
        b'{"info": {"features": {"label": [{"_type": "Value"}], "image": 3}}}',
        b'{"info": {"features": {"label": {"names": 7, "_type": "ClassLabel"}}}}',
    ],
)
def test_a_table_is_read_whatever_its_note_for_datasets_says(tmp_path: Path, note: bytes):
    cells = pa.array([encoded(number, "PNG") for number in range(12)], pa.binary())
    table = pa.table({"image": cells, "label": list(range(12))})
    table = table.replace_schema_metadata({b"huggingface": note})
    pq.write_table(table, tmp_path / "train.parquet")
    splits = load(tmp_path, "dataset")
    assert len(splits.train) + len(splits.test) == 12
    assert splits.train.labels.tolist() == numbers(splits.train)


def test_what_was_whole_is_not_looked_at_again_until_its_file_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PELAP_CACHE", str(tmp_path / "cache"))
    first = load(folder, memory_gb=LAZY)
    known = list(cache_folder("whole").iterdir())
    assert [np.frombuffer(path.read_bytes(), bool).sum() for path in known] == [18]
    again = load(folder, memory_gb=LAZY)
    assert numbers(again.train) == numbers(first.train)
    (folder / "b" / "12.jpg").write_bytes(encoded(12)[:300])
    assert "12.jpg" in load(folder, memory_gb=LAZY).left_out


def test_a_saved_data_set_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PELAP_CACHE", str(tmp_path / "cache"))
    cells = [encoded(number, "PNG") for number in range(6)]
    cells[4] = b"broken"
    datasets.Dataset.from_dict({"image": cells}).save_to_disk(str(tmp_path / "set"))
    for _ in range(2):
        assert load(tmp_path / "set", "dataset", memory_gb=LAZY).left_out == ("row 4",)
        (known,) = cache_folder("whole").iterdir()
        assert np.frombuffer(known.read_bytes(), bool).sum() == 5


def test_a_cache_that_cannot_be_written_stops_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("PELAP_CACHE", str(tmp_path / "cache"))
    assert len(load(folder, memory_gb=LAZY).left_out) == 2


def test_a_picture_too_large_to_be_decoded_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    bomb = bytearray(encoded(6, "BMP"))
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    (folder / "a" / "06.jpg").write_bytes(bomb)
    load(folder, resize=True)
    assert "06.jpg (it has more than 178,956,970 pixels)" in capsys.readouterr().err


def test_pipes_sockets_and_devices_are_passed_over_without_waiting(folder: Path):
    for name in ("a/pipe.jpg", "a/pipe.txt", "b/metadata.csv"):
        os.mkfifo(folder / name)
    (folder / "b" / "null.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "a" / "socket.png"))
        code = (
            "import sys; from pelap.config.run_config import DataConfig\n"
            "from pelap.data.load import load_pictures\n"
            "splits = load_pictures(DataConfig('folder', sys.argv[1], 16), 0)\n"
            "print(len(splits.train) + len(splits.test))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=60
        )
    assert done.stdout == "18\n", done.stderr


@pytest.mark.parametrize("kind", ["pipe", "missing", "folder"])
def test_a_table_that_names_no_file_does_not_wait(tmp_path: Path, kind: str):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(number, "PNG"))
    if kind == "pipe":
        os.mkfifo(tmp_path / "3.png")
    elif kind == "folder":
        (tmp_path / "3.png").mkdir()
    table = pa.table({"image": [f"{number}.png" for number in range(4)]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert load(tmp_path, "dataset").left_out == ("row 3",)
