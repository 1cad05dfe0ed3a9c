"""The same prompts and seeds by teacher and student, side by side, while the student learns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from pelap.core.seeding import generator
from pelap.families.registry import denoiser_family
from pelap.models.asked import Asked
from pelap.models.drawing import call_pipeline
from pelap.models.loaded import LoadedModel
from pelap.training.recovery.grid_picture import Row, grid_picture
from pelap.training.recovery.recovery_settings import RecoverySettings
from pelap.training.recovery.student import Student, Teacher

FOLDER = "validation"
NUM_STEPS = 25
"""Of the sampler."""


@dataclass(frozen=True)
class ValidationGrid:
    """Draws the student's pictures under those that the teacher drew once."""

    student: LoadedModel
    """On the accelerator's device."""
    shown: Sequence[Asked]
    """A column each."""
    noise: Tensor
    """What the student begins with, (columns, K, …), carried over from the teacher's."""
    above: Row | None
    """The teacher's pictures; None without a teacher."""
    size: int
    """Of the pictures, in pixels."""
    seed: int
    num_steps: int
    """Of the training."""
    folder: Path
    """For the grids."""
    accelerator: Accelerator

    def draw(self, done: int) -> None:
        """Write the grid of `done` steps as step_N.png, and show it to the trackers.

        Raises:
            ModelError: If the pipeline cannot draw.
        """
        if not self.accelerator.is_main_process:
            return
        device = self.accelerator.device
        drawn = _draw_row(self.student, self.shown, self.noise, self.size, self.seed, device)
        rows = [*([self.above] if self.above else []), Row("student", drawn)]
        title = f"step {done:,} of {self.num_steps:,}"
        grid = grid_picture(title, [one.title for one in self.shown], rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        grid.save(self.folder / f"step_{done}.png")
        for tracker in self.accelerator.trackers:
            log: Any = getattr(tracker, "log_images", None)
            if log is not None:
                how = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                log({FOLDER: np.asarray(grid)[None]}, step=done, **how)


def make_grid(
    student: Student,
    teacher: Teacher | None,
    shown: Sequence[Asked],
    image: Tensor,
    settings: RecoverySettings,
    folder: Path,
    accelerator: Accelerator,
) -> ValidationGrid:
    """Draw the teacher's row, and hold it.

    Args:
        student: On the accelerator's device.
        teacher: There too, in float32.
        shown: A column each.
        image: Of the size that is to be drawn, (1, 3, H, W) in [-1, 1].
        settings: Of the recovery.
        folder: Of the recovery.
        accelerator: Its main process draws.

    Raises:
        ModelError: If the teacher's pipeline cannot draw.
    """
    device, size, above = accelerator.device, image.shape[-1], None
    system = (teacher or student).system
    with torch.no_grad():
        _, twice, *axes = system.encode_moments(image.to(device)).shape
    source = generator(settings.seed, "validation")
    noise = torch.randn((len(shown), twice // 2, *axes), generator=source).to(device)
    if teacher is not None:
        if accelerator.is_main_process:
            above = Row(
                "teacher", _draw_row(teacher.model, shown, noise, size, settings.seed, device)
            )
        noise = teacher.to_student(noise)
    return ValidationGrid(
        student.model, shown, noise, above, size, settings.seed, settings.steps, folder / FOLDER,
        accelerator,
    )  # fmt: skip


@torch.no_grad()
def _draw_row(
    model: LoadedModel,
    shown: Sequence[Asked],
    noise: Tensor,
    size: int,
    seed: int,
    device: torch.device,
) -> list[Image.Image]:
    """A picture a column by the model's stock pipeline, one at a time.

    Args:
        model: Its networks are on the device, in float32.
        shown: A column each.
        noise: To begin with, (columns, C, …), where the pipeline can be given it; others draw
            their own.
        size: Of the pictures, in pixels.
        seed: Of what the pipeline draws beside.
        device: Where to draw.

    Raises:
        ModelError: If the pipeline cannot draw.
    """
    pipeline = model.pipeline()
    packs = denoiser_family(model.denoiser).packing.side > 1  # type: ignore[arg-type]
    drawn: list[Image.Image] = []
    with _placed(pipeline, device):
        for column, one in enumerate(shown):
            request = {
                "height": size,
                "width": size,
                "num_inference_steps": NUM_STEPS,
                "generator": generator(seed, "sampling", column),
                "latents": None if packs else noise[column : column + 1].to(device),
            }
            drawn += call_pipeline(pipeline, request | dict(one.arguments))
    return drawn


@contextmanager
def _placed(pipeline: DiffusionPipeline, device: torch.device) -> Iterator[None]:
    """All its networks on the device in float32 meanwhile."""
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    before = [next(network.parameters()) for network in networks]
    places = [(weight.device, weight.dtype) for weight in before]
    try:
        for network in networks:
            nn.Module.to(network, device, torch.float32)
        yield
    finally:
        for network, (home, precision) in zip(networks, places, strict=True):
            nn.Module.to(network, home, precision)
