"""What a training says while it goes on: metrics.jsonl, a progress bar, any accelerate tracker."""

import json
import time

from accelerate import Accelerator

from pelap.config.run_folder import RunFolder
from pelap.core.files import append_line
from pelap.core.json_values import JsonObject
from pelap.core.progress import ProgressBar

SHOWN = {
    "total_loss": "loss",
    "reconstruction_loss": "rec",
    "diffusion_loss": "diff",
    "noise_loss": "noise",
    "mask_mean": "mask",
}
"""Terms named beside the bar."""


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
        self, folder: RunFolder, accelerator: Accelerator, label: str, batch_size: int, steps: range
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
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def restart_clock(self, step: int) -> None:
        """Leave what was done since the last call (validation, samples, files) out of the speed."""
        self.clock = (time.perf_counter(), step)

    def images_per_second(self, step: int) -> float:
        """Throughput of all processes together since the last call, or the clock's restart."""
        now, (then, last) = time.perf_counter(), self.clock
        self.clock = (now, step)
        return (step - last) * self.batch_size / (now - then)

    def record(
        self,
        split: str,
        step: int,
        epoch: float,
        fields: JsonObject,
        words: str | None = None,
        style: str | None = None,
    ) -> None:
        """Write one line of metrics, and say it.

        Args:
            split: "train" or "validation"; "samples", "skipped" or "event" for what happened
                beside these.
            step: Optimiser steps done.
            epoch: Passes over the training pictures done, with fraction.
            fields: Means over all processes, a list has one a latent channel; an accelerate tracker
                gets the floats and the mean mask.
            words: What to print of it, "" for nothing; by default its losses stand beside the bar.
            style: Of the words at a terminal.
        """
        if not self.accelerator.is_main_process:
            return
        line = {"split": split, "step": step, "epoch": epoch, **fields}
        append_line(self.folder.metrics_path, json.dumps(line))
        scalars = {name: value for name, value in fields.items() if isinstance(value, float)}
        if isinstance(mask := fields.get("mask_mean"), list):
            scalars["mask_mean"] = sum(mask) / len(mask)
        if scalars and self.accelerator.trackers:
            self.accelerator.log({f"{split}/{k}": v for k, v in scalars.items()}, step=step)
        told = f"{self.label} · epoch {epoch:g} · "
        if words is not None:
            if words:
                self.bar.print(told + words, style)
            return
        named = [f"{word} {scalars[name]:.4f}" for name, word in SHOWN.items() if name in scalars]
        self.bar.show(" ".join(named))
        if split == "validation":
            self.bar.print(f"{told}step {step} · {' '.join(named)}")
