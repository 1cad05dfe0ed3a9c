"""Quality against time: few-step samplers beside 1,000-step ancestral sampling of one model.

    python benchmarks/sampling.py --stage quality     FD-ResNet20 of every way, three noise seeds
    python benchmarks/sampling.py --stage time        all ways in turn; on a quiet machine
    python benchmarks/sampling.py --stage summarise   table and figures

What is measured is not measured again, so each stage can be interrupted.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from evidence import for_each, markdown, plus_minus, put_table, write_experiment
from evidence_figures import draw_strips, save_figure
from pelap.core.files import write_whole

SEEDS = (42, 43, 44)
FEW = (5, 10, 15, 20, 30, 50, 100)
ANCESTRAL = ("ddpm", 1000)
WAYS = (*((name, steps) for name in ("ddim", "dpm-solver++") for steps in FEW), ANCESTRAL)
NUM_SAMPLES = 500
"""A way and seed; the same for all, as a Fréchet distance depends on it."""
NUM_TEST = 10_000
BATCH_SIZE = 250
NUM_SHOWN = 8
TIMED_BATCH = 64
ROUNDS = 5
LEAST_SPEEDUP, MOST_LOSS = 50, 0.05
"""What a few-step sampler should reach: so much less time, at most so much more distance."""


@dataclass(frozen=True)
class Unit:
    """Pictures of one sampler from one noise."""

    sampler: str
    steps: int
    seed: int
    num_samples: int

    @property
    def name(self) -> str:
        return f"{self.sampler}-{self.steps}-{self.num_samples}-seed={self.seed}"


def units(num_samples: int) -> list[Unit]:
    """Seeds outermost, so that a partial result has all ways."""
    return [Unit(*way, seed, num_samples) for seed in SEEDS for way in WAYS]


def measure_unit(unit: Unit, run: Path, runs: Path, num_test: int) -> None:
    """Draw the pictures, keep the first few, and write one JSON file with their distance."""
    import numpy as np

    from criteria import _quality, _test_pictures
    from pelap.models.opening import open_model

    path = runs / "units" / f"{unit.name}.json"
    if path.exists():
        return
    model = open_model(run)
    samples = draw(unit, model.system(), model.config)
    pictures = runs / "pictures" / f"{unit.name}.npy"
    for folder in (path.parent, pictures.parent):
        folder.mkdir(parents=True, exist_ok=True)
    np.save(pictures, samples[:NUM_SHOWN].permute(0, 2, 3, 1).numpy())
    quality = _quality(["fd"], _test_pictures(model, num_test), samples=samples)
    found = {**unit.__dict__, "num_test": num_test, "fd_resnet20": quality["FD-ResNet20"]}
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def draw(unit: Unit, system: Any, config: Any) -> Any:
    """Pictures as bytes (N, 3, H, W)."""
    from pelap.method.sampling import sample

    return sample(
        system, config, num_samples=unit.num_samples, sampler=unit.sampler, num_steps=unit.steps,
        seed=unit.seed, batch_size=BATCH_SIZE,
    )  # fmt: skip


def measure_time(run: Path, runs: Path, rounds: int, batch_size: int) -> None:
    """Seconds of every way in turn, noise to bytes, order reversed every other round."""
    from pelap.measure.alternation import alternate
    from pelap.measure.machine import machine, versions
    from pelap.models.opening import open_model

    path = runs / "time.json"
    if path.exists():
        return
    model = open_model(run)
    system = model.system()
    for sampler, _ in WAYS:
        draw(Unit(sampler, 2, 0, batch_size), system, model.config)

    def seconds(way: tuple[str, int]) -> float:
        begin = time.perf_counter()
        draw(Unit(*way, 0, batch_size), system, model.config)
        return time.perf_counter() - begin

    took = alternate([partial(seconds, way) for way in WAYS], rounds)
    found = {
        "batch_size": batch_size,
        "rounds": rounds,
        "seconds": {_words(way): one for way, one in zip(WAYS, took, strict=True)},
        "machine": machine(),
        "versions": versions(),
    }
    runs.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def _words(way: tuple[str, int]) -> str:
    return f"{way[0]} {way[1]}"


@dataclass(frozen=True)
class Row:
    """One way, with what it is worth beside the ancestral one."""

    way: tuple[str, int]
    distances: list[float]
    """FD-ResNet20, one a seed."""
    losses: list[float]
    """Distance over that of the ancestral sampler with the same seed, minus 1."""
    speedups: list[float]
    """Ancestral time over this one's, one a round; empty where not timed."""

    @property
    def is_met(self) -> bool:
        """Whether this way is fast enough and good enough, both on average."""
        if not self.losses or not self.speedups:
            return False
        loss = sum(self.losses) / len(self.losses)
        return median(self.speedups) >= LEAST_SPEEDUP and loss <= MOST_LOSS


def read_rows(runs: Path, num_samples: int) -> list[Row]:
    """What has been measured so far."""
    found = {
        unit: json.loads(path.read_text())["fd_resnet20"]
        for unit in units(num_samples)
        if (path := runs / "units" / f"{unit.name}.json").exists()
    }
    timed = runs / "time.json"
    seconds = json.loads(timed.read_text())["seconds"] if timed.exists() else {}
    slowest = seconds.get(_words(ANCESTRAL), [])
    rows = []
    for way in WAYS:
        distances = {u.seed: d for u, d in found.items() if (u.sampler, u.steps) == way}
        ancestral = {u.seed: d for u, d in found.items() if (u.sampler, u.steps) == ANCESTRAL}
        losses = [d / ancestral[seed] - 1 for seed, d in distances.items() if seed in ancestral]
        own = seconds.get(_words(way), [])
        speedups = [a / b for a, b in zip(slowest, own, strict=True)]
        rows.append(Row(way, list(distances.values()), losses, speedups))
    return rows


def rows_of(content: dict[str, Any]) -> list[Row]:
    """The rows that sampling.json holds."""
    return [
        Row(tuple(way["way"]), way["distances"], way["losses"], way["speedups"])
        for way in content["ways"]
    ]


def table(rows: list[Row]) -> str:
    """FD-ResNet20, its loss, and how much faster, by way."""
    header = ["sampler", "steps", "FD-ResNet20", "more than ancestral", "times as fast",
              "fast and good enough"]  # fmt: skip
    return markdown(header, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    sampler, steps = row.way
    loss = f"{plus_minus([100 * loss for loss in row.losses], 1)} %" if row.losses else "–"
    speed = "–"
    if row.speedups:
        low, high = min(row.speedups), max(row.speedups)
        speed = f"{median(row.speedups):.1f} ({low:.1f} to {high:.1f})"
    if row.way == ANCESTRAL:
        loss = speed = "–"
    return [sampler, str(steps), plus_minus(row.distances, 2), loss, speed,
            "yes" if row.is_met else ""]  # fmt: skip


def summarise(run: Path, runs: Path, output: Path, num_samples: int) -> None:
    """sampling.json, the table in the README, and the figures."""
    rows = read_rows(runs, num_samples)
    timed = runs / "time.json"
    found = {
        "run": run.name,
        "num_samples": num_samples,
        "ways": [row.__dict__ | {"fast_and_good_enough": row.is_met} for row in rows],
        "time": json.loads(timed.read_text()) if timed.exists() else None,
    }
    machine = found["time"]["machine"] if found["time"] else None
    write_experiment(output / "sampling.json", __doc__, found, machine)
    put_table(output / "README.md", "sampling table", table(rows))
    if any(row.speedups for row in rows):
        save_figure(lambda: _draw(rows), output / "figures" / "quality_against_time.png")
    strips = _strips(runs, num_samples)
    if strips:
        save_figure(lambda: draw_strips(strips), output / "figures" / "samples.png")


def _draw(rows: list[Row]) -> Any:
    from sampling_figure import draw_quality_against_time

    slowest = next(row for row in rows if row.way == ANCESTRAL)
    points: dict[str, list[Any]] = {}
    for row in rows:
        if row.distances and row.way != ANCESTRAL:
            share = 1 / median(row.speedups)
            points.setdefault(row.way[0], []).append((row.way[1], share, row.distances))
    return draw_quality_against_time(points, slowest.distances, 1 / LEAST_SPEEDUP, MOST_LOSS)


def _strips(runs: Path, num_samples: int) -> list[tuple[str, Any]]:
    import numpy as np

    strips = []
    for way in (("ddim", 5), ("ddim", 15), ("dpm-solver++", 5), ("dpm-solver++", 15), ANCESTRAL):
        file = runs / "pictures" / f"{Unit(*way, SEEDS[0], num_samples).name}.npy"
        if file.exists():
            strips.append((f"{_words(way)} steps", np.load(file)))
    return strips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", choices=["quality", "time", "summarise"], required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/headline/kl16_small-seed=42"))
    parser.add_argument("--runs", type=Path, default=Path("runs/sampling"), help="measurements")
    parser.add_argument("--output", type=Path, default=Path("results/sampling"), help="evidence")
    parser.add_argument("--num-samples", type=int, default=NUM_SAMPLES, help="pictures a way")
    parser.add_argument("--num-test", type=int, default=NUM_TEST, help="test pictures")
    parser.add_argument("--batch-size", type=int, default=TIMED_BATCH, help="pictures timed")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternations timed")
    parser.add_argument("--jobs", type=int, default=1, help="at a time, a thread each (1)")
    options = parser.parse_args()
    if options.stage == "quality":
        measure = partial(
            measure_unit, run=options.run, runs=options.runs, num_test=options.num_test
        )
        for_each(measure, units(options.num_samples), options.jobs)
    elif options.stage == "time":
        measure_time(options.run, options.runs, options.rounds, options.batch_size)
    else:
        summarise(options.run, options.runs, options.output, options.num_samples)


if __name__ == "__main__":
    main()
