"""The loop of every training: rate, losses, update, average, metrics, checkpoint, step by step.

What is trained towards what is an `Objective`: a stage of a run (stage_objective.py) or a pruned
model's recovery (recovery/student_training.py). Every random number of an objective is a function
of the seed and the step, so a training that was killed ends bit for bit as an uninterrupted one.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from accelerate import Accelerator
from torch import Tensor

from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError, naming_batch
from pelap.core.files import write_whole
from pelap.method.losses import LossTerms
from pelap.method.step import StepOutput, update
from pelap.training.checkpoint import (
    TrainingState,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from pelap.training.tracking import Tracker

MOST_SKIPPED = 10
"""Steps in a row whose loss or gradient is not finite: with so many, it will not be any more."""


class DivergenceError(RunError):
    """A loss that is not finite any more."""


StepResult = StepOutput | LossTerms
"""What one step gave; all of it averages over processes."""


class Objective(ABC):
    """What a training works towards, and what is due when."""

    stage: str
    """What metrics.jsonl calls it."""
    remedy: str
    """What to do where the loss diverges, with the option and its value."""
    tried: str
    """The batch, where there is too little memory for it."""
    smaller: str
    """What to do then."""
    steps_per_epoch: int
    clipped: Sequence[Sequence[torch.nn.Parameter]]
    """Weights whose gradients are clipped together."""
    max_gradient_norm: float

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """Of the step after `step` others."""

    @abstractmethod
    def forward(self, step: int) -> StepResult:
        """The losses of this process's part of the batch, with gradients."""

    @abstractmethod
    def is_logged(self, done: int) -> bool:
        """Whether metrics.jsonl gets a line after `done` steps."""

    @abstractmethod
    def is_saved(self, done: int) -> bool:
        """Whether a checkpoint is due after `done` steps."""

    def backward(self, step: int, accelerator: Accelerator) -> StepResult:
        """The same losses, with their gradients added to those of the weights."""
        result = self.forward(step)
        accelerator.backward(result.total_loss)
        return result

    def end_step(self, loop: "Loop", done: int) -> None:  # noqa: B027 - most have nothing to do
        """Do what else is due after `done` steps, before the checkpoint."""


@dataclass(frozen=True)
class Loop:
    """Takes the steps of one objective after the other."""

    accelerator: Accelerator
    folder: RunFolder
    state: TrainingState
    tracker: Tracker
    keep_checkpoints: int

    def run(self, objective: Objective, steps: range) -> None:
        """Take these steps; at their end the weights are their moving average.

        A step whose loss or gradient is not finite changes nothing, and has a line of its own in
        the metrics.

        Raises:
            DivergenceError: If none of MOST_SKIPPED steps in a row changed anything, or none of the
                last half.
        """
        self.tracker.restart_clock(steps.start)  # what caching latents took is no training
        num_skipped = 0
        for step in steps:
            result, norm = self._step(objective, step)
            done = step + 1
            self.tracker.bar.move_to(done)
            if not torch.isfinite(norm):
                num_skipped += 1
                is_too_many = num_skipped == MOST_SKIPPED or (
                    done == steps.stop and 2 * num_skipped >= len(steps)
                )
                self._report_skipped(objective, done, result, num_skipped, stop=is_too_many)
            else:
                num_skipped = 0
                if objective.is_logged(done):
                    self._log(objective, done, result, norm)
            objective.end_step(self, done)
            if done == steps.stop:
                self.state.keep_average()
            if objective.is_saved(done):
                self.save(done, is_last=done == self.tracker.steps.stop)
                self.tracker.restart_clock(done)

    def save(self, step: int, *, is_last: bool) -> None:
        """Write a checkpoint."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            folder, keep = self.folder.checkpoints, self.keep_checkpoints
            save_checkpoint(folder, step, keep, self.state, is_last=is_last)
        self.accelerator.wait_for_everyone()

    def _step(self, objective: Objective, step: int) -> tuple[StepResult, Tensor]:
        rate, optimizer = objective.learning_rate(step), self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("rate_factor", 1.0)
        buffers = [buffer.clone() for buffer in self.state.trained.buffers()]
        clipped, limit = objective.clipped, objective.max_gradient_norm
        with naming_batch(objective.tried, objective.smaller):
            result = objective.backward(step, self.accelerator)
            norm = update(optimizer, clipped, limit, self.accelerator, result.total_loss)
        if not torch.isfinite(norm):
            for buffer, before in zip(self.state.trained.buffers(), buffers, strict=True):
                buffer.copy_(before)  # running statistics
        elif self.state.ema is not None:
            self.state.ema.step(self.state.trained.parameters())
        return result, norm

    def _report_skipped(
        self, objective: Objective, done: int, result: StepResult, num: int, *, stop: bool
    ) -> None:
        """Say that a step was skipped.

        Args:
            objective: What is trained towards.
            done: Steps, with this one.
            result: Of the step.
            num: Steps skipped in a row, with this one.
            stop: Whether these are too many.

        Raises:
            DivergenceError: If they are.
        """
        result = result.from_vector(reduced(self.accelerator, result.to_vector(), "mean"))
        figures = [(name, v) for name, v in result.figures().items() if isinstance(v, float)]
        wrong = [f"{name.replace('_', ' ')} is {v}" for name, v in figures if not isfinite(v)]
        why = ", ".join(wrong) or "the gradient is not finite"
        fields = {"stage": objective.stage, "why": why}
        words = f"step {done} skipped: {why}" if num == 1 else ""
        epoch = done / objective.steps_per_epoch
        self.tracker.record("skipped", done, epoch, fields, words, "bold red")
        if stop:
            raise DivergenceError(
                f"The loss is not finite in {num} steps in a row, up to step {done} ({why}): "
                f"{objective.remedy}."
            )

    def _log(self, objective: Objective, done: int, result: StepResult, norm: Tensor) -> None:
        result = result.from_vector(reduced(self.accelerator, result.to_vector(), "mean"))
        fields = {
            "stage": objective.stage,
            **result.figures(),
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            "gradient_norm": float(norm),
            "images_per_second": self.tracker.images_per_second(done),
        }
        self.tracker.record("train", done, done / objective.steps_per_epoch, fields)


def restore(folder: RunFolder, state: TrainingState, accelerator: Accelerator) -> int:
    """Go back to the last checkpoint, or to the start where there is none.

    Args:
        folder: Its metrics lose the lines of steps that will be taken again.
        state: Restored in place.
        accelerator: Its main process writes.

    Returns:
        The number of steps done.

    Raises:
        RunError: If no checkpoint is whole, or it does not fit.
    """
    checkpoint = last_checkpoint(folder.checkpoints)
    step = 0 if checkpoint is None else load_checkpoint(checkpoint, state)
    if accelerator.is_main_process and (path := folder.metrics_path).exists():
        kept = [line for line, values in folder.metrics_lines() if values["step"] <= step]
        write_whole(path, "".join(line + "\n" for line in kept).encode())
    accelerator.wait_for_everyone()
    return step


def reduced(accelerator: Accelerator, values: Tensor, how: str) -> Tensor:
    """The "sum" or the "mean" of `values` over all processes."""
    total = accelerator.reduce(values, reduction=how)
    assert isinstance(total, Tensor)
    return total
