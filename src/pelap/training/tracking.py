"""What a training says while it goes on: metrics.jsonl, a progress bar, any accelerate tracker."""

import json
import time
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from pelap.config.run_folder import RunFolder
from pelap.core.progress import ProgressBar

SHOWN = {
    "total_loss": "loss",
    "reconstruction_loss": "rec",
    "diffusion_loss": "diff",
    "noise_loss": "noise",
}
"""Terms named beside the bar."""

Figures = Mapping[str, float | list[float]]
"""Figures of a line of metrics, by name; a list has one a latent channel."""


class Tracker:
    """Writes a training's metrics and shows its progress, on the main process only.

    Args:
        folder: Of the training.
        accelerator: Its trackers get every figure too, where it was given any.
        label: What to call the training.
        batch_size: Pictures a step, over all processes.
        steps: From the first to take to the end of the training.
    """

    def __init__(
        self,
        folder: RunFolder,
        accelerator: Accelerator,
        label: str,
        batch_size: int,
        steps: range,
    ):
        self.folder = folder
        self.accelerator = accelerator
        self.label = label
        self.batch_size = batch_size
        self.steps = steps
        self.clock = (time.perf_counter(), steps.start)
        self.bar = ProgressBar(
            label, steps.stop, steps.start, is_transient=False, pictures_a_step=batch_size
        )

    def __enter__(self) -> "Tracker":
        self.bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.__exit__()

    def restart_clock(self, step: int) -> None:
        """Leave what was done since the last call (validation, samples, files) out of the speed."""
        self.clock = (time.perf_counter(), step)

    def images_per_second(self, step: int) -> float:
        """Throughput of all processes together since the last call, or the clock's restart."""
        now, (then, last) = time.perf_counter(), self.clock
        self.clock = (now, step)
        return (step - last) * self.batch_size / (now - then)

    def record(self, split: str, step: int, epoch: float, stage: str, figures: Figures) -> None:
        """Write one line of metrics.

        Args:
            split: "train" or "validation".
            step: Optimiser steps done.
            epoch: Passes over the training pictures done, with fraction.
            stage: What is being trained.
            figures: Means over all processes.
        """
        if not self.accelerator.is_main_process:
            return
        self._write({"split": split, "step": step, "epoch": epoch, "stage": stage, **figures})
        scalars = {name: value for name, value in figures.items() if isinstance(value, float)}
        if isinstance(mask := figures.get("mask_mean"), list):
            scalars["mask_mean"] = sum(mask) / len(mask)
        self._log(split, scalars, step)
        shown = [f"{word} {scalars[name]:.4f}" for name, word in SHOWN.items() if name in scalars]
        if "mask_mean" in scalars:
            shown.append(f"mask {scalars['mask_mean']:.4f}")
        words = " ".join(shown)
        self.bar.show(words)
        if split == "validation":
            self.bar.print(f"{self.label} · epoch {epoch:g} · step {step} · {words}")

    def record_event(
        self,
        split: str,
        step: int,
        epoch: float,
        fields: dict[str, Any],
        words: str,
        style: str | None = None,
    ) -> None:
        """Write down, and say, what happened beside the training.

        Args:
            split: "samples" or "event".
            step: Optimiser steps done.
            epoch: Passes over the training pictures done.
            fields: What metrics.jsonl says of it; an accelerate tracker gets its floats.
            words: The same in words.
            style: Of the words at a terminal.
        """
        if not self.accelerator.is_main_process:
            return
        self._write({"split": split, "step": step, "epoch": epoch, **fields})
        scalars = {name: value for name, value in fields.items() if isinstance(value, float)}
        self._log(split, scalars, step)
        self.bar.print(f"{self.label} · epoch {epoch:g} · {words}", style)

    def _log(self, split: str, scalars: dict[str, float], step: int) -> None:
        if scalars and self.accelerator.trackers:
            self.accelerator.log({f"{split}/{k}": v for k, v in scalars.items()}, step=step)

    def _write(self, line: dict[str, Any]) -> None:
        with self.folder.metrics_path.open("a") as metrics:
            metrics.write(json.dumps(line) + "\n")
