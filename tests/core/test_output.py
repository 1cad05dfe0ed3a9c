"""Where a verb writes: nothing foreign is replaced, nothing is lost, one command at a time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pelap.cli import main
from pelap.core.errors import ConfigError, RunError
from pelap.core.output import MARK, claimed, write_output
from tiny_pipelines import PIPELINES


def fill(text: str) -> Any:
    def write(folder: Path) -> None:
        (folder / "part").mkdir()
        (folder / "part" / "file.txt").write_text(text)

    return write


def content(output: Path) -> str:
    return (output / "part" / "file.txt").read_text()


def test_a_new_folder_is_written_whole_with_its_mark(tmp_path: Path):
    write_output(tmp_path / "deep" / "out", fill("new"))
    assert content(tmp_path / "deep" / "out") == "new"
    mark = json.loads((tmp_path / "deep" / "out" / MARK).read_text())
    assert mark == {"made_by": "pelap", "files": ["part/file.txt"]}
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_what_pelap_made_is_replaced_when_asked(tmp_path: Path):
    output = tmp_path / "out"
    write_output(output, fill("old"))
    with pytest.raises(ConfigError, match="--overwrite"):
        write_output(output, fill("new"))
    assert content(output) == "old"
    write_output(output, fill("new"), overwrite=True)
    assert content(output) == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("where", ["notes.txt", "part/notes.txt", "deep/er/notes.txt"])
def test_a_file_that_somebody_added_is_not_deleted(tmp_path: Path, where: str):
    output = tmp_path / "out"
    write_output(output, fill("old"))
    (output / where).parent.mkdir(parents=True, exist_ok=True)
    (output / where).write_text("precious")
    with pytest.raises(ConfigError, match=r"holds .*notes\.txt, which pelap did not make"):
        write_output(output, fill("new"), overwrite=True)
    assert (output / where).read_text() == "precious"
    assert content(output) == "old"


@pytest.mark.parametrize("mark", [None, "", "[]", "{}", '{"files": 3}'])
def test_a_folder_without_a_readable_mark_is_foreign(tmp_path: Path, mark: str | None):
    output = tmp_path / "out"
    output.mkdir()
    fill("theirs")(output)
    if mark is not None:
        (output / MARK).write_text(mark)
    with pytest.raises(ConfigError, match="did not make"):
        write_output(output, fill("new"), overwrite=True)
    assert content(output) == "theirs"


def test_links_are_neither_followed_nor_replaced(tmp_path: Path):
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    write_output(elsewhere, fill("kept"))
    write_output(output, fill("old"))
    (output / "link").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="holds link"):
        write_output(output, fill("new"), overwrite=True)
    assert content(elsewhere) == "kept"


def test_an_empty_folder_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    write_output(Path(), fill("here"))
    assert content(tmp_path / "out") == "here"


def test_a_write_that_fails_leaves_what_there_was(tmp_path: Path):
    output = tmp_path / "out"
    write_output(output, fill("old"))

    def fail(folder: Path) -> None:
        fill("half")(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_output(output, fail, overwrite=True)
    assert content(output) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_killed_between_two_renamings_the_old_one_comes_back(tmp_path: Path):
    output = tmp_path / "out"
    write_output(output, fill("old"))
    output.rename(tmp_path / ".out.old")  # where such a death leaves it
    with pytest.raises(ValueError, match="no"), claimed(output, overwrite=True):
        raise ValueError("no")
    assert content(output) == "old"


def test_a_leftover_of_somebody_else_s_stays(tmp_path: Path):
    theirs = tmp_path / ".out.partial"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="in the way"):
        write_output(tmp_path / "out", fill("new"))
    assert (theirs / "thesis.tex").read_text() == "precious"


HOLD = """
import sys, time
from pathlib import Path
from pelap.core.output import claimed
with claimed(Path(sys.argv[1]), overwrite=False):
    print("claimed", flush=True)
    time.sleep(60)
"""


def test_one_command_at_a_time_and_a_killed_one_lets_go(tmp_path: Path):
    output = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "claimed\n"
    with pytest.raises(RunError, match="another command"):
        write_output(output, fill("new"))
    write_output(tmp_path / "other", fill("free"))
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    write_output(output, fill("new"))
    assert content(output) == "new"


def test_only_the_first_process_of_a_command_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with claimed(tmp_path / "out", overwrite=False):
        monkeypatch.setenv("RANK", "1")
        with claimed(tmp_path / "out", overwrite=False):
            pass


@pytest.mark.parametrize("verb", ["prune", "export"])
def test_the_folder_above_the_model_survives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
):
    home = tmp_path / "home"
    PIPELINES["ldm"]().save_pretrained(home / "model")
    (home / "thesis.tex").write_text("precious")
    before = sorted(path for path in tmp_path.rglob("*"))
    options = ["--keep", "0,1"] if verb == "prune" else []
    command = [verb, str(home / "model"), *options, "--output", str(home), "--overwrite"]
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pelap:")]
    assert "did not make" in line
    assert sorted(path for path in tmp_path.rglob("*")) == before
