"""Two commands on one output: the second is refused in one line, and nothing of it stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from pelap.cli import main
from pelap.config.overrides import apply_overrides
from pelap.config.presets import get_preset
from pelap.core.output import locked
from pelap.measure.run_evaluation import evaluate_run
from pelap.training.trainer import train
from tiny_pipelines import PIPELINES

HOLD = """
import sys, time
from pathlib import Path
from pelap.core.output import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""
FEW = ["--data.source", "photos", "--data.num-train", "64", "--data.num-test", "16"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run, a pipeline, and a file that could be a LoRA."""
    home = tmp_path_factory.mktemp("two")
    words = ["--run.max-steps", "2", "--data.num-train", "64", "--data.num-test", "16"]
    evaluate_run(train(apply_overrides(get_preset("tiny"), words), home / "run"))
    PIPELINES["ldm"]().save_pretrained(home / "model")
    save_file({}, home / "lora.safetensors")
    return home


@pytest.fixture
def held(places: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An output that another process writes to."""
    output = places / request.param
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "locked\n"
        yield output
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()


@pytest.mark.parametrize(
    ("held", "verb"),
    [
        ("grid.png", "sample run"),
        ("grid.png", "sample model"),
        ("analysis", f"analyze model {' '.join(FEW)}"),
        ("diagnosis", f"diagnose model {' '.join(FEW)}"),
        ("run", "diagnose run"),
        ("page", "report run"),
        ("run", "report run"),
        ("comparison", f"compare model {' '.join(FEW)}"),
        ("new.safetensors", "adapt model --lora lora.safetensors"),
        ("onnx", "export model"),
        ("sweep", "sweep tiny --grid run.seed=1"),
        ("small", "prune model --keep 0,1"),
        ("small", f"recover model --steps 1 {' '.join(FEW)}"),
    ],
    indirect=["held"],
)
def test_the_second_is_refused_in_one_line(
    places: Path,
    held: Path,
    verb: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(places)
    before = sorted(places.rglob("*"))
    words = verb.split()
    own = ["--output", str(held)] if held.name != words[1] else []
    assert main([*words, *own]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pelap:")]
    assert "is being written by another command" in line
    assert sorted(places.rglob("*")) == before


def test_an_evaluation_waits_for_no_training(places: Path, capsys: pytest.CaptureFixture[str]):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pelap.config.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).held():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(places / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        assert main(["evaluate", str(places / "run")]) == 2
        assert "is being written by another process" in capsys.readouterr().err
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()


@pytest.mark.parametrize("pair", range(3))
def test_two_real_samplings_end_as_one_success_and_one_line_or_two_in_turn(
    places: Path, tmp_path: Path, pair: int
):
    words = ["-m", "pelap", "sample", str(places / "run"), "-o", str(tmp_path / "deep" / "s")]
    words += ["--num", "4", "--steps", "2"]
    both = []
    for _ in range(2):
        both.append(subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True))
        time.sleep(0.3 * pair)
    told = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], told
    (line,) = [line for text in told for line in text.splitlines() if line.startswith("pelap:")]
    assert "another command" in line or "exists already" in line
    names = [path.name for path in sorted((tmp_path / "deep" / "s").iterdir())]
    assert names == [f"{number:05d}.png" for number in range(4)]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["s"]


def test_folders_made_for_the_lock_alone_vanish(tmp_path: Path):
    with pytest.raises(ValueError, match="no"), locked(tmp_path / "deep" / "er" / "out"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_below_one_that_cannot_be_written_locks_inside(tmp_path: Path):
    (tmp_path / "out").mkdir()
    tmp_path.chmod(0o500)
    try:
        with locked(tmp_path / "out"):
            assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".lock"]
    finally:
        tmp_path.chmod(0o700)
