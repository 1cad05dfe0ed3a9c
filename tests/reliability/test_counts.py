"""The helpers of benchmarks/reliability.py: what is damaged, how commands end, what is counted."""

import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reliability

    return reliability


def test_damage_is_a_function_of_the_seed_and_changes_the_file(
    benchmark: ModuleType, tmp_path: Path
):
    kinds = set()
    for seed in range(40):
        contents = []
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(bytes(range(1, 201)))
            kinds.add(benchmark._damage(tmp_path / name, random.Random(seed)))
            there = (tmp_path / name).exists()
            contents.append((tmp_path / name).read_bytes() if there else None)
        assert contents[0] == contents[1] != bytes(range(1, 201))
    assert kinds == {"flip", "truncate", "empty", "zeros", "noise", "remove"}


def test_every_field_of_nested_values_is_met(benchmark: ModuleType):
    values = {"a": 1, "b": [2, {"c": 3}]}
    met = [holder[key] for holder, key in benchmark._fields_of(values)]
    assert met == [1, [2, {"c": 3}], 2, {"c": 3}, 3]


def test_counts_are_by_kind_and_fault(benchmark: ModuleType):
    tries = [
        {"kind": "kills", "fault": "wrong"},
        {"kind": "kills", "fault": None},
        {"kind": "lines", "fault": "hang"},
    ]
    rows = {row["kind"]: row for row in benchmark.count(tries)}
    assert (rows["kills"]["tried"], rows["kills"]["wrong"]) == (2, 1)
    assert (rows["lines"]["tried"], rows["lines"]["hang"]) == (1, 1)
    assert rows["disks"]["tried"] == 0


def test_commands_end_as_they_do_and_die_when_told(tmp_path: Path):
    """In a process of its own, for it forks."""
    code = """
import sys
from pathlib import Path
from forked_commands import run_command
place = Path(sys.argv[1]) / "place"
place.mkdir()
fine = run_command(["settings", "tiny"], place)
wrong = run_command(["train", "nowhere", "-o", "out"], place)
drawn = ["train", "tiny", "--run.max-steps", "1", "--data.num-train", "16", "--data.num-test", "8"]
killed = run_command([*drawn, "-o", "out"], place, kill_at=1)
full = run_command([*drawn, "-o", "out"], place, file_limit=1 << 14)
print(fine.code, wrong.code, wrong.is_one_line, killed.code, full.code, full.is_one_line)
print(sorted(path.name for path in place.iterdir() if path.name != ".cache"))
"""
    environment = {"PYTHONPATH": f"{ROOT / 'benchmarks'}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.stdout.splitlines() == ["0 2 True None 2 True", "['out']"], done.stderr
