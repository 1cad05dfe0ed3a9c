"""What the experiments of this folder share: trials in run folders, some at a time, resumable."""

import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pelap.config.run_config import EvaluationConfig, RunConfig

QUALITY = ("psnr", "ssim", "rfd", "fd", "fd_to_reconstructions", "kid", "precision", "recall")
KEPT = ("config.json", "metrics.jsonl", "evaluation.json", "budget.json", "diagnosis.json")
"""Files of a run folder that are evidence; weights and pictures are not kept."""


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


def keep_evidence(trials: Iterable[Trial], runs: Path, output: Path) -> None:
    """Copy the small files of the trials' run folders."""
    for trial in trials:
        for name in KEPT:
            source = runs / trial.folder_name / name
            if source.exists():
                target = output / trial.folder_name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


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
