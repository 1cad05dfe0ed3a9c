"""What a run says while it trains: metrics.jsonl, a progress bar, any accelerate tracker."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pelap.config.run_config import RunConfig, to_dict
from pelap.config.run_folder import RunFolder, write_whole
from pelap.core.errors import RunError
from pelap.measure.collapse import CollapseVerdict
from pelap.method.step import StepOutput


class Tracker:
    """Writes a run's metrics and shows its progress, on the main process only."""

    def __init__(
        self,
        folder: RunFolder,
        accelerator: Accelerator,
        config: RunConfig,
        first_step: int,
        total_steps: int,
    ):
        self.folder = folder
        self.accelerator = accelerator
        self.config = config
        self.clock = (time.perf_counter(), first_step)
        self.console = Console(stderr=True, quiet=not accelerator.is_main_process)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            disable=not (accelerator.is_main_process and sys.stderr.isatty()),
        )
        self.task = self.progress.add_task(
            folder.name, total=total_steps, completed=first_step, losses=""
        )

    def __enter__(self) -> "Tracker":
        if self.config.run.tracker is not None:
            settings = {f"{a}.{k}": str(v) for a, b in to_dict(self.config).items()
                        if isinstance(b, dict) for k, v in b.items()}  # fmt: skip
            self.accelerator.init_trackers("pelap", settings)
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self.accelerator.end_training()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self.progress.update(self.task, completed=step)

    def restart_clock(self, step: int) -> None:
        """Leave what was done since the last call (validation, samples, files) out of the speed."""
        self.clock = (time.perf_counter(), step)

    def images_per_second(self, step: int) -> float:
        """Throughput of all processes together since the last call, or the clock's restart."""
        now = time.perf_counter()
        then, last = self.clock
        self.clock = (now, step)
        return (step - last) * self.config.data.batch_size / (now - then)

    def record(
        self,
        split: str,
        step: int,
        epoch: float,
        output: StepOutput,
        stage: str,
        **more: float | list[float],
    ) -> None:
        """Write one line of metrics.

        Args:
            split: "train" or "validation".
            step: Optimiser steps done.
            epoch: Passes over the training pictures done, with fraction.
            output: Already averaged over the processes.
            stage: What is being trained.
            more: Further figures of the line.
        """
        if not self.accelerator.is_main_process:
            return
        losses = {name: float(value) for name, value in output.losses.named().items()}
        mask = [float(value) for value in output.mask_mean]
        line: dict[str, Any] = {"split": split, "step": step, "epoch": epoch, "stage": stage}
        self._write(line | losses | {"mask_mean": mask, **more})
        if self.config.run.tracker is not None:
            scalars = losses | {"mask_mean": sum(mask) / len(mask)}
            scalars |= {name: value for name, value in more.items() if isinstance(value, float)}
            self.accelerator.log({f"{split}/{k}": v for k, v in scalars.items()}, step=step)
        summary = _summary(losses, mask)
        self.progress.update(self.task, losses=summary)
        if split == "validation":
            self.console.print(f"{self.folder.name} · epoch {epoch:g} · step {step} · {summary}")

    def record_samples(
        self, step: int, epoch: float, grid: Path, num_samples: int, accuracy: float | None
    ) -> None:
        """Write down, and say, what samples were drawn and in how many a judge sees their class.

        Args:
            step: Optimiser steps done.
            epoch: Passes over the training pictures done.
            grid: The PNG.
            num_samples: Of all classes together.
            accuracy: In [0, 1]; None where there is no judge.
        """
        shown = grid.relative_to(self.folder.path)
        where = {"split": "samples", "step": step, "epoch": epoch}
        self._write(
            where
            | {"grid": str(shown), "num_samples": num_samples, "class_accuracy_resnet20": accuracy}
        )
        words = f"{self.folder.name} · epoch {epoch:g} · {shown}"
        if accuracy is not None:
            words += f" · the asked class in {accuracy:.1%} of {num_samples}"
        self.console.print(words)
        if self.config.run.tracker is not None and accuracy is not None:
            self.accelerator.log({"samples/class_accuracy_resnet20": accuracy}, step=step)

    def record_event(self, step: int, epoch: float, verdict: CollapseVerdict) -> None:
        """Write down, and say, that the model was found shrunken or collapsed."""
        if not self.accelerator.is_main_process:
            return
        where = {"split": "event", "step": step, "epoch": epoch}
        self._write(where | {"verdict": verdict.verdict, "reasons": verdict.reasons})
        self.console.print(
            f"{self.folder.name} · epoch {epoch:g} · {verdict.verdict}: {verdict.reasons[0]}",
            style="bold red",
        )

    def _write(self, line: dict[str, Any]) -> None:
        with self.folder.metrics_path.open("a") as metrics:
            metrics.write(json.dumps(line) + "\n")


def keep_metrics_until(folder: RunFolder, step: int) -> None:
    """Drop the lines of steps that will be taken again.

    Raises:
        RunError: If a line before them is broken.
    """
    if not folder.metrics_path.exists():
        return
    kept = []
    for line in folder.metrics_path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break  # the line that was being written when the run was killed
        if values["step"] <= step:
            kept.append(line)
    if step > 0 and not kept:
        raise RunError(f"{folder.metrics_path} has no line up to step {step}: the run is damaged.")
    write_whole(folder.metrics_path, "".join(line + "\n" for line in kept).encode())


def _summary(losses: dict[str, float], mask: list[float]) -> str:
    short = {"total_loss": "loss", "reconstruction_loss": "rec", "diffusion_loss": "diff"}
    present = [(label, losses[name]) for name, label in short.items() if name in losses]
    shown = " ".join(f"{label} {value:.4f}" for label, value in present)
    return f"{shown} mask {sum(mask) / len(mask):.4f}"
