"""The contract of a run folder: one place that knows its file names. No torch here.

runs/NAME/
  config.json               the whole resolved RunConfig
  metrics.jsonl             one JSON object a line
  checkpoints/step_N/       resumable state
  samples/step_N.png        drawn while it trained, a class a row
  latents/                  cached latents of a two-stage run, removed at its end
  model/                    a diffusers pipeline folder, safetensors only
  evaluation.json           what `pelap evaluate` measured
  evaluation_pictures.npz   uint8 (N, H, W, 3): originals, reconstructions,
                            masked_reconstructions, samples
  diagnosis.json            what `pelap diagnose` measured
  figures/*.png  report.html
  .lock                     held by the process that trains or evaluates the run
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pelap.config.run_checks import load_config
from pelap.config.run_config import RunConfig, save_config, to_dict
from pelap.core.errors import RunError
from pelap.core.files import read_object, sync, sync_folder, write_json
from pelap.core.json_values import JsonObject
from pelap.core.notes import note_once


class _Inside:
    """A path below the run's own."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, run: "RunFolder", _kind: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run folder, and readers for its small files."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    config_path = _Inside("config.json")
    metrics_path = _Inside("metrics.jsonl")
    checkpoints = _Inside("checkpoints")
    model = _Inside("model")
    latents = _Inside("latents")
    evaluation_path = _Inside("evaluation.json")
    pictures_path = _Inside("evaluation_pictures.npz")
    diagnosis_path = _Inside("diagnosis.json")
    samples = _Inside("samples")
    figures = _Inside("figures")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing to this run; given up also when the process dies.

        Raises:
            RunError: If another process holds it.
        """
        from filelock import FileLock, Timeout  # imports much that `--help` does not need

        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise RunError(
                f"{self.path} is being written by another process: wait for it, or stop it."
            ) from error

    def wait_until_free(self) -> None:
        """Wait until no process trains or evaluates this run."""
        from filelock import FileLock

        with FileLock(self.path / ".lock"):
            pass

    def config(self) -> RunConfig:
        return load_config(self.config_path)

    def metrics(self, split: str | None = None) -> list[JsonObject]:
        """Lines of metrics.jsonl, of one split ("train", "validation") if given."""
        lines = [line for _, line in self.metrics_lines()]
        return [line for line in lines if split is None or line["split"] == split]

    def metrics_lines(self) -> list[tuple[str, JsonObject]]:
        """Each line of metrics.jsonl, as text and as values; those that are broken are left out,
        aloud but for the last, which was being written when the run was killed."""
        if not self.metrics_path.exists():
            return []
        text = self.metrics_path.read_text(encoding="utf-8", errors="replace")
        found, lines = [], text.splitlines()
        for number, line in enumerate(lines, 1):
            values = _metrics_line(line)
            if values is not None:
                found.append((line, values))
            elif number < len(lines) or text.endswith("\n"):
                note_once(f"{self.metrics_path}: line {number} is broken and left out.")
        return found

    def evaluation(self) -> JsonObject:
        """What `pelap evaluate` wrote.

        Raises:
            RunError: If the run has not been evaluated.
        """
        if not self.evaluation_path.exists():
            raise RunError(
                f"{self.path} has no evaluation.json: run `pelap evaluate {self.path}` first."
            )
        return read_object(self.evaluation_path, RunError)

    def diagnosis(self) -> JsonObject | None:
        """What `pelap diagnose` wrote; None if it was not run."""
        if not self.diagnosis_path.exists():
            return None
        return read_object(self.diagnosis_path, RunError)


def _metrics_line(line: str) -> JsonObject | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kinds = {"split": str, "step": int, "epoch": int | float}
    if not isinstance(values, dict):
        return None
    return values if all(isinstance(values.get(k), kind) for k, kind in kinds.items()) else None


def create_run(path: Path, config: RunConfig) -> None:
    """Make a new run folder with its config, whole or not at all.

    Raises:
        RunError: If something stands at `path`, also if another process was quicker.
    """
    _create(path, lambda partial: save_config(config, partial / "config.json"))


def copy_run(run: RunFolder, path: Path, checkpoints: Sequence[Path], config: RunConfig) -> None:
    """A new run folder that goes on where another stands; whole or not at all.

    Args:
        run: Its metrics, model and grids of samples are copied.
        path: Of the new folder.
        checkpoints: Those to take along.
        config: Of the new run.

    Raises:
        RunError: If something stands at `path`, or another process writes to `run`.
    """

    def fill(partial: Path) -> None:
        save_config(config, partial / run.config_path.name)
        if run.metrics_path.exists():
            shutil.copy2(run.metrics_path, partial / run.metrics_path.name)
        for source in (run.model, run.samples):
            if source.is_dir():
                shutil.copytree(source, partial / source.name)
        for source in checkpoints:
            shutil.copytree(source, partial / run.checkpoints.name / source.name)

    with run.held():
        _create(path, fill)


def _create(path: Path, fill: Callable[[Path], None]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        fill(partial)
        sync_folder(partial)
        partial.rename(path)
        sync(path.parent)
    except OSError as error:
        if path.exists():
            raise already_there(path) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_config(run: RunFolder, config: RunConfig) -> None:
    """Put another config in the place of the run's own."""
    write_json(run.config_path, to_dict(config), indent=2)


def already_there(path: Path) -> RunError:
    """What to say of a run that would overwrite another."""
    return RunError(
        f"{path} exists already: choose another --output, "
        f"or continue that run with `pelap resume {path}`."
    )


def open_run(path: Path | str) -> RunFolder:
    """The run folder at `path`.

    Raises:
        RunError: If there is no folder, or it holds no config.json.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(
            f"No run folder at {path}: make one with `pelap train PRESET --output {path}`."
        )
    if not (path / "config.json").is_file():
        raise RunError(f"{path} is not a run folder: it holds no config.json.")
    return RunFolder(path)
