"""`pelap sweep`: every point of a grid with several seeds, each trial a run folder of its own.

DIR/NAME/        a run for each trial       DIR/logs/NAME.txt   what it said
DIR/sweep.json   everything measured        DIR/sweep.md        the table
DIR/figures/sweep.png
"""

import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from pelap.config import RunConfig, as_option, save_config
from pelap.errors import ConfigError, RunError
from pelap.overrides import apply_overrides
from pelap.report.sweep_figure import draw_sweep
from pelap.run_folder import RunFolder, open_run, write_whole
from pelap.training import is_finished

FIGURES = (
    "diffusion_loss",
    "reconstruction_psnr_db",
    "masked_reconstruction_mse_sum",
    "mask_mean",
    "active_channels",
)
"""What is taken from evaluation.json, beside everything under `quality`."""


@dataclass(frozen=True)
class GridAxis:
    """One setting and the values to try."""

    name: str
    """Dotted, as in the config: objective.sparsity_weight."""
    values: tuple[str, ...]
    """As one would write them on the command line."""


@dataclass(frozen=True)
class Trial:
    """One training of the sweep."""

    name: str
    settings: dict[str, str]
    """Value of each axis."""
    config: RunConfig


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial."""

    name: str
    settings: dict[str, str]
    seed: int
    error: str | None
    """Last line that a failed trial said."""
    verdict: str | None
    figures: dict[str, float]


@dataclass(frozen=True)
class SweepResult:
    """All trials, and mean and spread over the seeds of each grid point."""

    preset: str
    grid: dict[str, list[str]]
    trials: list[TrialResult]
    points: list[dict[str, Any]]
    """`settings`, `verdicts` (counts), `figures` (name → mean, std, n)."""

    @property
    def failed(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.error is not None]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_axis(text: str) -> GridAxis:
    """`group.field=a,b,c` as an axis.

    Raises:
        ConfigError: If it has another form.
    """
    name, equals, values = text.partition("=")
    name = name.strip().lstrip("-").replace("-", "_")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not equals or "." not in name or not found:
        raise ConfigError(f"--grid {text}: give group.field=value,value, e.g. gate.budget=2,4.")
    if len(set(found)) < len(found):
        raise ConfigError(f"--grid {text} names a value twice.")
    return GridAxis(name, found)


def plan_trials(config: RunConfig, grid: Sequence[GridAxis], num_seeds: int) -> list[Trial]:
    """Every combination of the axes' values with every seed, checked.

    Seeds are the config's own and those that follow it, and vary slowest, so that an interrupted
    sweep has seen the whole grid.

    Raises:
        ConfigError: If a setting or value cannot be used, or seeds are given twice.
    """
    if num_seeds < 1:
        raise ConfigError(f"--seeds is {num_seeds}: it must be at least 1.")
    names = [axis.name for axis in grid]
    if len(set(names)) < len(names):
        raise ConfigError("--grid names a setting twice: put all its values into one --grid.")
    if "run.seed" in names and num_seeds > 1:
        raise ConfigError("--grid run.seed and --seeds both vary the seed: give one.")
    trials = []
    for offset in range(num_seeds):
        for values in itertools.product(*(axis.values for axis in grid)):
            settings = dict(zip(names, values, strict=True))
            options = [(as_option(name), value) for name, value in settings.items()]
            point = apply_overrides(config, list(itertools.chain(*options)))
            point = replace(point, run=replace(point.run, seed=point.run.seed + offset))
            trials.append(Trial(_folder_name(settings, point.run.seed), settings, point))
    return trials


def _folder_name(settings: dict[str, str], seed: int) -> str:
    parts = [f"{name.split('.')[-1]}={value}" for name, value in settings.items()]
    if "run.seed" not in settings:
        parts.append(f"seed={seed}")
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))


def sweep(
    config: RunConfig,
    grid: Sequence[GridAxis],
    num_seeds: int,
    output: Path,
    *,
    jobs: int = 1,
    metrics: Sequence[str] = (),
) -> SweepResult:
    """Train and evaluate every trial that is not done yet, then write table and figure.

    Args:
        config: What all trials share.
        grid: The axes; may be empty to vary the seed alone.
        num_seeds: Trainings of each grid point.
        output: Folder of the trials and results.
        jobs: Trials at a time, each a process; they share the processor's cores.
        metrics: Quality metrics, as for `evaluate_run`.

    Returns:
        Also holds the trials that failed; the others go on.

    Raises:
        ConfigError: If a setting cannot be used. Nothing is started then.
        RunError: If a trial's folder was made with other settings. Nothing is started then.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}: it must be at least 1.")
    trials = plan_trials(config, grid, num_seeds)
    for trial in trials:
        _refuse_other_settings(trial, output)
    waiting = [trial for trial in trials if not _is_done(output / trial.name)]
    errors = _run_all(waiting, output, jobs, metrics)
    results = [_collect(trial, output, errors.get(trial.name)) for trial in trials]
    points = [_point(settings, results) for settings in _distinct(results)]
    axes = {axis.name: list(axis.values) for axis in grid}
    result = SweepResult(config.preset, axes, results, points)
    _write(result, output)
    return result


def _refuse_other_settings(trial: Trial, output: Path) -> None:
    path = output / trial.name
    if path.exists() and open_run(path).config() != trial.config:
        raise RunError(
            f"{path} was made with other settings: choose another --output, or remove that run."
        )


def _is_done(path: Path) -> bool:
    run = RunFolder(path)
    return path.is_dir() and is_finished(run) and run.evaluation_path.exists()


def _run_all(
    trials: Sequence[Trial], output: Path, jobs: int, metrics: Sequence[str]
) -> dict[str, str]:
    """Run the trials; the last line of what each failed one said, by name."""
    console = Console(stderr=True)
    (output / "logs").mkdir(parents=True, exist_ok=True)
    running: set[subprocess.Popen[bytes]] = set()
    errors: dict[str, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(_run_trial, trial, output, jobs, metrics, running): trial
            for trial in trials
        }
        try:
            for count, done in enumerate(as_completed(futures), 1):
                trial, error = futures[done], done.result()
                if error is not None:
                    errors[trial.name] = error
                told = f"failed: {error}" if error else "done"
                console.print(f"{count} of {len(trials)} · {trial.name} · {told}", highlight=False)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running.copy():
                process.send_signal(signal.SIGINT)
            raise
    return errors


def _run_trial(
    trial: Trial,
    output: Path,
    jobs: int,
    metrics: Sequence[str],
    running: set[subprocess.Popen[bytes]],
) -> str | None:
    path, log = output / trial.name, output / "logs" / f"{trial.name}.txt"
    cores = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(cores), **os.environ}
    commands = [_training_command(trial, path, output)]
    commands.append(["evaluate", str(path), *(["--metrics", *metrics] if metrics else [])])
    with log.open("wb") as said:
        for command in commands:
            if command is None:
                continue
            process = subprocess.Popen(
                [sys.executable, "-m", "pelap", *command], stdout=said, stderr=said, env=environment
            )
            running.add(process)
            code = process.wait()
            running.discard(process)
            if code != 0:
                return _last_line(log) or f"`pelap {command[0]}` ended with code {code}"
    return None


def _training_command(trial: Trial, path: Path, output: Path) -> list[str] | None:
    if path.exists():
        return None if is_finished(RunFolder(path)) else ["resume", str(path)]
    config = output / "logs" / f"{trial.name}.json"
    save_config(trial.config, config)
    return ["train", "--config", str(config), "--output", str(path)]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _collect(trial: Trial, output: Path, error: str | None) -> TrialResult:
    seed, path = trial.config.run.seed, output / trial.name
    if error is not None or not _is_done(path):
        said = error or "not finished"
        return TrialResult(trial.name, trial.settings, seed, said, None, {})
    evaluation = RunFolder(path).evaluation()
    figures = {name: _number(evaluation[name]) for name in FIGURES}
    figures |= {name: one["value"] for name, one in evaluation.get("quality", {}).items()}
    verdict = evaluation["collapse"]["verdict"]
    return TrialResult(trial.name, trial.settings, seed, None, verdict, figures)


def _number(value: float | list[float]) -> float:
    return statistics.fmean(value) if isinstance(value, list) else value


def _distinct(results: Sequence[TrialResult]) -> list[dict[str, str]]:
    return [dict(pairs) for pairs in dict.fromkeys(tuple(r.settings.items()) for r in results)]


def _point(settings: dict[str, str], results: Sequence[TrialResult]) -> dict[str, Any]:
    done = [r for r in results if r.settings == settings and r.error is None]
    verdicts = [r.verdict for r in done]
    figures = {name: [r.figures[name] for r in done] for name in (done[0].figures if done else {})}
    return {
        "settings": settings,
        "verdicts": {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
        "figures": {name: summary(values) for name, values in figures.items()},
    }


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation (None for one value) and number."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "n": len(values)}


def _write(result: SweepResult, output: Path) -> None:
    write_whole(output / "sweep.json", (json.dumps(result.as_dict(), indent=2) + "\n").encode())
    write_whole(output / "sweep.md", table(result).encode())
    (output / "figures").mkdir(exist_ok=True)
    if any(point["figures"] for point in result.points):
        write_whole(output / "figures" / "sweep.png", draw_sweep(result.as_dict()).png)


def table(result: SweepResult) -> str:
    """Markdown: a row for each grid point with mean ± standard deviation, then what failed."""
    measured = dict.fromkeys(name for point in result.points for name in point["figures"])
    header = [*result.grid, "trials", *measured, "verdict"]
    rows = [header, ["---"] * len(header)]
    for point in result.points:
        figures = point["figures"]
        trials = sum(point["verdicts"].values())
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in point["verdicts"].items())
        cells = [_plus_minus(figures[name]) if name in figures else "" for name in measured]
        rows.append([*point["settings"].values(), str(trials), *cells, verdicts])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [f"\nFailed: {trial.name}: {trial.error}" for trial in result.failed]
    return "\n".join(lines) + "\n"


def _plus_minus(figure: dict[str, float | None]) -> str:
    mean = f"{figure['mean']:.4g}"
    return mean if figure["std"] is None else f"{mean} ± {figure['std']:.2g}"
