"""Whole files and folders, links that are not written through, damaged JSON in one line."""

import os
from pathlib import Path

import pytest

from pelap.core.errors import RunError
from pelap.core.files import (
    append_line,
    file_digest,
    read_object,
    remove_folder,
    write_folder,
    write_whole,
)
from pelap.core.notes import note, printable


def test_a_file_is_not_written_through_a_link(tmp_path: Path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".a.json.partial").symlink_to(tmp_path / "victim")
    write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "a.json").read_bytes() == b"new"
    (tmp_path / "lines").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        append_line(tmp_path / "lines", "new")
    assert (tmp_path / "victim").read_text() == "precious"


def test_what_is_renamed_was_flushed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flushed: list[str] = []
    real = os.fsync

    def watch(number: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        real(number)

    monkeypatch.setattr(os, "fsync", watch)
    write_whole(tmp_path / "a", b"x")
    assert flushed == [str(tmp_path / ".a.partial"), str(tmp_path)]
    flushed.clear()
    write_folder(tmp_path / "b", lambda folder: write_whole(folder / "c", b"x"))
    assert str(tmp_path / ".b.partial" / "c") in flushed
    assert flushed[-1] == str(tmp_path)


def test_a_folder_whose_writing_fails_leaves_the_old_one(tmp_path: Path):
    write_folder(tmp_path / "a", lambda folder: write_whole(folder / "c", b"old"))

    def fail(folder: Path) -> None:
        (folder / "c").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "a", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "c").read_bytes() == b"old"


def test_a_folder_is_gone_at_once_and_so_is_what_was_left_of_it(tmp_path: Path):
    for name in ("a", ".a.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    remove_folder(tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "[" * 100_000, '{"a": "\\ud800"', "\x00"])
def test_json_that_is_no_object_is_one_line(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RunError, match=r"a\.json") as caught:
        read_object(tmp_path / "a.json", RunError)
    assert "\n" not in str(caught.value)


def test_digests_tell_files_apart(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")


def test_notes_spell_out_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]):
    note("a\x1b[2Jb")
    assert capsys.readouterr().err == "note: a\\x1b[2Jb\n"
    assert printable("ä → b\nc") == "ä → b\nc"
