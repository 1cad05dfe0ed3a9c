"""Every point of a grid with several seeds, each trial a run folder of its own.

DIR/NAME/        a run for each trial       DIR/logs/NAME.txt   what it said
DIR/sweep.json   everything measured        DIR/sweep.md        the table
DIR/figures/sweep.png
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from rich.markup import escape

from pelap.commands.sweep import GridAxis, Trial, parse_axis, plan_trials
from pelap.commands.sweep_table import (
    SweepResult,
    chosen_figures,
    summarise,
    write_result,
)
from pelap.config.run_config import RunConfig, save_config
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError, RunError
from pelap.core.output import locked
from pelap.core.progress import ProgressBar
from pelap.measure.quality import check_metrics, was_measured
from pelap.pages.sweep_record import TrialResult
from pelap.training.checkpoint import is_finished


class Processes:
    """Runs `pelap` commands, each in a process of its own, until stopped."""

    def __init__(self, num_threads: int):
        self.environment = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.is_stopped = False
        self.lock = threading.Lock()

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command to its end, add what it says to `log`, return its exit code."""
        with log.open("ab") as said:
            with self.lock:
                if self.is_stopped:
                    return 130
                process = subprocess.Popen(
                    [sys.executable, "-m", "pelap", *command],
                    stdout=said,
                    stderr=said,
                    env=self.environment,
                )
                self.running.add(process)
            code = process.wait()
        with self.lock:
            self.running.discard(process)
        return code

    def stop(self) -> None:
        """Interrupt what runs and start nothing more."""
        with self.lock:
            self.is_stopped = True
            for process in self.running:
                process.send_signal(signal.SIGINT)


def sweep(
    config: RunConfig,
    grid: Sequence[GridAxis | str],
    num_seeds: int,
    output: str | Path,
    *,
    jobs: int = 1,
    metrics: Sequence[str] = (),
    processes: Processes | None = None,
) -> SweepResult:
    """Train and evaluate every trial that is not done yet, then write table and figure.

        pelap.sweep(pelap.get_preset("tiny"), ["gate.budget=1,2"], 3, "runs/sweep").describe()

    Args:
        config: What all trials share.
        grid: The axes, also as "group.field=value,value"; may be empty to vary the seed alone.
        num_seeds: Trainings of each grid point.
        output: Folder of the trials and results.
        jobs: Trials at a time, each a process; they share the processor's cores.
        metrics: Quality metrics, as for `evaluate_run`.
        processes: What runs the commands of the trials.

    Returns:
        Also holds the trials that failed; the others go on.

    Raises:
        ConfigError: If a setting cannot be used. Nothing is started then.
        RunError: If a trial's folder was made with other settings, or another command writes to
            `output`. Nothing is started then.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}: it must be at least 1.")
    output = Path(output)
    axes = [parse_axis(axis) if isinstance(axis, str) else axis for axis in grid]
    trials = plan_trials(config, axes, num_seeds)
    for extractor in {trial.config.evaluation.extractor for trial in trials}:
        check_metrics(metrics, extractor, torch.device("cpu"))
    processes = processes or Processes(max(1, (os.cpu_count() or 1) // jobs))
    with locked(output):
        for trial in trials:
            _refuse_other_settings(trial, output)
        errors = _run_all(trials, output, jobs, metrics, processes)
        results = [_collect(trial, output, errors.get(trial.name)) for trial in trials]
        result = summarise(config.preset, {axis.name: list(axis.values) for axis in axes}, results)
        write_result(result, output)
    return result


def _refuse_other_settings(trial: Trial, output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is not a folder: choose another --output.")
    path = output / trial.name
    if path.exists() and open_run(path).config() != trial.config:
        raise RunError(
            f"{path} was made with other settings: choose another --output, or remove that run."
        )


def _is_done(path: Path, metrics: Sequence[str] = ()) -> bool:
    run = RunFolder(path)
    if not (path.is_dir() and is_finished(run) and run.evaluation_path.exists()):
        return False
    quality = run.evaluation().get("quality", {})
    return all(was_measured(metric, quality) for metric in metrics)


def _run_all(
    trials: Sequence[Trial],
    output: Path,
    jobs: int,
    metrics: Sequence[str],
    processes: Processes,
) -> dict[str, str]:
    """Run the trials that are not done; the last line of what each failed one said, by name."""
    waiting = [trial for trial in trials if not _is_done(output / trial.name, metrics)]
    num_done = len(trials) - len(waiting)
    (output / "logs").mkdir(parents=True, exist_ok=True)
    errors: dict[str, str] = {}
    bar = ProgressBar("trials", len(trials), num_done, is_transient=False)
    with bar, ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {
                pool.submit(_run_trial, trial, output, metrics, processes): trial
                for trial in waiting
            }
            for count, done in enumerate(_as_completed(futures), num_done + 1):
                trial, error = futures[done], done.result()
                if error is not None:
                    errors[trial.name] = error
                told = f"failed: {error}" if error else "done"
                bar.print(escape(f"{count} of {len(trials)} · {trial.name} · {told}"))
                bar.move_to(count)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise
    return errors


def _as_completed(futures: Iterable[Future[str | None]]) -> Iterator[Future[str | None]]:
    """Futures as they end, awake once a second.

    A signal that comes just before an endless wait would not be seen until that wait ends.
    """
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
        yield from done


def _run_trial(
    trial: Trial, output: Path, metrics: Sequence[str], processes: Processes
) -> str | None:
    path, log = output / trial.name, output / "logs" / f"{trial.name}.txt"
    if path.exists():  # a killed sweep may have left its trials running
        RunFolder(path).wait_until_free()
        if _is_done(path, metrics):
            return None
    commands = [["evaluate", str(path), *(["--metrics", *metrics] if metrics else [])]]
    if not path.exists():
        config = log.with_suffix(".json")
        save_config(trial.config, config)
        commands.insert(0, ["train", "--config", str(config), "--output", str(path)])
    elif not is_finished(RunFolder(path)):
        commands.insert(0, ["resume", str(path)])
    log.write_bytes(b"")
    for command in commands:
        code = processes.run(command, log)
        if code != 0:
            return _last_line(log) or f"`pelap {command[0]}` ended with code {code}"
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _collect(trial: Trial, output: Path, error: str | None) -> TrialResult:
    seed, path = trial.config.run.seed, output / trial.name
    if error is not None or not _is_done(path):
        said = error or "not finished"
        return TrialResult(trial.name, trial.settings, seed, "failed", said, None, {})
    evaluation = RunFolder(path).evaluation()
    verdict, figures = evaluation["collapse"]["verdict"], chosen_figures(evaluation)
    return TrialResult(trial.name, trial.settings, seed, "done", None, verdict, figures)
