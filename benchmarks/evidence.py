"""What the experiments of this folder share: trials in run folders, some at a time, resumable."""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pelap.config.run_config import EvaluationConfig, RunConfig
from pelap.core.files import write_whole

QUALITY = ("psnr", "ssim", "rfd", "fd", "fd_to_reconstructions", "kid", "precision", "recall")
NUM_CURVE_POINTS = 200
"""Of longer curves every second, third, … point is kept, and the last."""
SIGNIFICANT_DIGITS = 6
LINE_WIDTH = 120


@dataclass(frozen=True)
class Trial:
    """One training."""

    name: str
    config: RunConfig

    @property
    def folder_name(self) -> str:
        return f"{self.name}-seed={self.config.run.seed}"


def with_seeds(configs: dict[str, RunConfig], seeds: Sequence[int]) -> list[Trial]:
    """Every config with every seed, seeds outermost, so that a partial result has all configs."""
    return [
        Trial(name, replace(config, run=replace(config.run, seed=seed)))
        for seed in seeds
        for name, config in configs.items()
    ]


def stage_options(doc: str | None) -> argparse.Namespace:
    """What a benchmark is told that measures quality and time apart, and can be gone on with."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of everything made")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--stage", choices=["quality", "time", "summarise"], default="quality")
    parser.add_argument("--jobs", type=int, default=2, help="at a time, a thread each (2)")
    return parser.parse_args()


def for_each(function: Callable[[Any], None], items: Iterable[Any], jobs: int) -> None:
    """Call `function` on every item in `jobs` processes of one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {pool.submit(function, item): item for item in items}
        for done in as_completed(waiting):
            error = done.exception()
            if error is not None:
                print(f"failed: {waiting[done]}: {error}", file=sys.stderr)  # noqa: T201


def train_trial(trial: Trial, runs: Path) -> None:
    """Train a trial, or continue it; nothing where it is finished."""
    from pelap.config.run_folder import open_run
    from pelap.training.checkpoint import is_finished
    from pelap.training.trainer import resume, train

    path = runs / trial.folder_name
    if not path.exists():
        train(trial.config, path)
    elif not is_finished(open_run(path)):
        resume(path)


def evaluate_trial(
    trial: Trial, runs: Path, evaluation: EvaluationConfig, metrics: Sequence[str] = QUALITY
) -> None:
    """Evaluate a trial with these metrics unless that has been done."""
    from pelap.config.run_folder import open_run
    from pelap.measure.run_evaluation import evaluate_run

    folder = open_run(runs / trial.folder_name)
    if not folder.evaluation_path.exists() or "quality" not in folder.evaluation():
        evaluate_run(folder, replace(folder.config(), evaluation=evaluation), metrics)


def read_runs(folders: dict[str, Path]) -> dict[str, Any]:
    """What is kept of run folders, by name: settings, curves, evaluation and diagnosis.

    Settings that all runs share stand once, in front of the runs.
    """
    runs = {name: _read_run(folder) for name, folder in folders.items()}
    every = [run["settings"] for run in runs.values()]
    shared = {
        key: value
        for key, value in (every[0] if every else {}).items()
        if all(key in one and one[key] == value for one in every)
    }
    for run in runs.values():
        run["settings"] = {k: v for k, v in run["settings"].items() if k not in shared}
    return {"settings": shared, "runs": runs}


def _read_run(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    found = {"settings": dict(_flat(config)), "curves": read_curves(folder / "metrics.jsonl")}
    for name in ("evaluation", "diagnosis"):
        file = folder / f"{name}.json"
        if file.exists():
            found[name] = json.loads(file.read_text())
    return found


def _flat(config: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def read_curves(metrics: Path) -> dict[str, dict[str, list[Any]]]:
    """Columns of a metrics.jsonl by split, rounded and thinned; None where a line lacks one."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for text in metrics.read_text().splitlines():
        line = json.loads(text)
        splits.setdefault(line.pop("split"), []).append(line)
    curves = {}
    for split, lines in splits.items():
        names = list(dict.fromkeys(name for line in lines for name in line))
        every = -(-len(lines) // NUM_CURVE_POINTS)
        kept = lines[::-1][::every][::-1]
        curves[split] = {name: [_rounded(line.get(name)) for line in kept] for name in names}
    return curves


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def lines_of(curves: dict[str, dict[str, list[Any]]], split: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that a split's columns were read from."""
    columns = curves.get(split, {})
    return [
        {name: value for name, value in zip(columns, line, strict=True) if value is not None}
        for line in zip(*columns.values(), strict=True)
    ]


def read_experiment(path: Path) -> dict[str, Any]:
    """An experiment's JSON; empty where there is none yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_experiment(
    path: Path, doc: str | None, content: dict[str, Any], machine: str | None = None
) -> None:
    """Write an experiment's JSON: its command, the kind of machine, and these parts.

    Parts of other names that stand there already, such as what was tried by hand, stay.

    Args:
        path: The file.
        doc: Docstring of the benchmark, which gives its commands.
        content: What was measured.
        machine: The kind of machine that measured it; by default this one's.
    """
    from pelap.measure.machine import machine as this_machine

    head = {"command": command_of(doc), "machine": machine or this_machine()}
    found = head | read_experiment(path) | head | content
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (as_json(found) + "\n").encode())


def command_of(doc: str | None) -> str:
    """The commands in a docstring, without what is said of them."""
    lines = [line.strip().partition("   ")[0] for line in (doc or "").splitlines()]
    return " && ".join(line for line in lines if line.startswith(("pelap ", "python ")))


def as_json(value: Any, indent: int = 0) -> str:
    """JSON with a line for whatever is short, and for every list of plain values."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or indent + len(line) <= LINE_WIDTH:
        return line
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return line
    space = " " * (indent + 1)
    if isinstance(value, list):
        parts = [as_json(one, indent + 1) for one in value]
    else:
        parts = [
            f"{json.dumps(str(k), ensure_ascii=False)}: {as_json(one, indent + 1)}"
            for k, one in value.items()
        ]
    begin, end = "[]" if isinstance(value, list) else "{}"
    return begin + "\n" + ",\n".join(space + part for part in parts) + "\n" + " " * indent + end


def plus_minus(values: Sequence[float], digits: int) -> str:
    """Mean ± sample standard deviation, or the value where there is one."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def put_table(readme: Path, name: str, table: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` of a README."""
    if not readme.exists():
        return
    text = readme.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if found:
        readme.write_text(before + begin + table + end + after)
