"""The verdict of benchmarks/sampling.py is what was measured."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sampling

    return sampling


def measured(benchmark: Any, runs: Path, distances: dict[tuple[str, int], float]) -> None:
    """As if these ways had been measured with every seed, a distance 1 larger with each."""
    (runs / "units").mkdir()
    for unit in benchmark.units(8):
        if (unit.sampler, unit.steps) in distances:
            distance = distances[unit.sampler, unit.steps] + unit.seed - 42
            path = runs / "units" / f"{unit.name}.json"
            path.write_text(json.dumps({**unit.__dict__, "fd_resnet20": distance}))
    seconds = {f"{name} {steps}": [steps / 2, steps / 4] for name, steps in benchmark.WAYS}
    (runs / "time.json").write_text(json.dumps({"seconds": seconds, "machine": "here"}))


def test_fast_and_good_enough_needs_both(benchmark: Any, tmp_path: Path):
    measured(
        benchmark, tmp_path,
        {("ddpm", 1000): 100, ("ddim", 15): 106, ("dpm-solver++", 15): 104,
         ("dpm-solver++", 20): 105, ("dpm-solver++", 30): 90},
    )  # fmt: skip
    rows = {row.way: row for row in benchmark.read_rows(tmp_path, 8)}
    met = {way for way, row in rows.items() if row.is_met}
    assert met == {("dpm-solver++", 15), ("dpm-solver++", 20)}
    assert rows["ddim", 15].losses == pytest.approx([6 / 100, 6 / 101, 6 / 102])
    assert rows["dpm-solver++", 20].speedups == [50.0, 50.0]
    assert rows["ddim", 5].distances == []


def test_what_was_measured_becomes_a_page(benchmark: Any, tmp_path: Path):
    measured(benchmark, tmp_path, {("ddpm", 1000): 50, ("dpm-solver++", 15): 51})
    output = tmp_path / "results"
    output.mkdir()
    (output / "README.md").write_text("<!-- sampling table -->\n<!-- /sampling table -->\n")
    benchmark.summarise(Path("model"), tmp_path, output, 8)
    lines = (output / "README.md").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith("| dpm-solver++ | 15 |")]
    assert found == (
        "| dpm-solver++ | 15 | 52.00 ± 1.00 | 2.0 ± 0.0 % | 66.7 (66.7 to 66.7) | yes |"
    )
    ways = json.loads((output / "sampling.json").read_text())["ways"]
    assert len(ways) == len(benchmark.WAYS)
    assert (output / "figures" / "quality_against_time.png").stat().st_size > 10_000
