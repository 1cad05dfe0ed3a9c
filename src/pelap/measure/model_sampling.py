"""`pelap sample` on a pipeline's folder: pictures drawn as its own stock pipeline draws them."""

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import nn

from pelap.config.prompts import PromptPictures
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.measure.run_sampling import check_output, choose_classes, save_images
from pelap.models.conditions import known_classes
from pelap.models.drawing import DrawingRequest, draw
from pelap.models.loaded import LoadedModel
from pelap.models.precision import DTYPES, Precision, check_precision

AT_A_TIME = 8
NUM = 4
"""Pictures of each prompt or class."""


@dataclass(frozen=True)
class ModelSampling:
    """What a pipeline is asked for; what is None is as the pipeline has it."""

    num: int | None = None
    """Of each prompt or class, or of all where it is told nothing; NUM by default."""
    prompt: str | None = None
    prompts: str | None = None
    """A file with a prompt or a class a line; varied for those that come with pelap."""
    classes: str | None = None
    """All, or names or numbers with commas between."""
    guidance: float | None = None
    steps: int | None = None
    size: int | None = None
    """Of the pictures, in pixels."""
    seed: int = 0
    precision: Precision = "fp32"

    def check(self) -> None:
        """Refuse what cannot be drawn before a model is opened.

        Raises:
            ConfigError: One line that names the option.
            DataError: If the file of prompts cannot be read.
        """
        for name in ("num", "steps", "size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}: it must be at least 1.")
        given = [n for n in ("prompt", "prompts", "classes") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ConfigError(f"Give one of --{given[0]} and --{given[1]}.")
        if self.prompts is not None:
            PromptPictures(self.prompts).read()


def sample_model(model: LoadedModel, output: Path, asked: ModelSampling) -> None:
    """Draw pictures with the model's own pipeline, scheduler included: one grid, or a folder.

    A picture depends on what is asked for, the seed and its number alone.

    Args:
        model: A pipeline of any origin.
        output: A picture file for one grid, a prompt or class a row, or a new folder.
        asked: What is drawn.

    Raises:
        ConfigError: If there is nothing to tell a pipeline that wants it, nobody to tell it to, or
            `output` cannot be used.
        ModelError: If the pipeline cannot be loaded or called.
    """
    asked.check()
    check_output(output)
    device = torch_device()
    check_precision(asked.precision, device)
    pipeline = model.pipeline()
    rows, num = _rows(model, pipeline, asked), NUM if asked.num is None else asked.num
    told = None if rows is None else [row for row in rows for _ in range(num)]
    count = num if told is None else len(told)
    _place(pipeline, device, DTYPES[asked.precision])
    how = DrawingRequest(asked.size, asked.guidance, asked.steps)
    pictures: list[Image.Image] = []
    for start in track(range(0, count, AT_A_TIME), f"Drawing {count:,} pictures"):
        numbers = range(start, min(start + AT_A_TIME, count))
        sources = [generator(asked.seed, "sampling", number) for number in numbers]
        part: Any = None if told is None else [told[number] for number in numbers]
        pictures += draw(pipeline, part, sources, how)
    is_square = rows is None or len(rows) == 1
    save_images(pictures, math.ceil(math.sqrt(count)) if is_square else num, output)


def _place(pipeline: DiffusionPipeline, device: torch.device, dtype: torch.dtype) -> None:
    """Put copies of its networks there in place of those that are elsewhere."""
    for name, part in pipeline.components.items():
        weights = part.parameters() if isinstance(part, nn.Module) else ()
        if any((w.dtype, w.device.type) != (dtype, device.type) for w in weights):
            # diffusers' own `to` warns of layers to be kept in float32 even where there are none
            setattr(pipeline, name, nn.Module.to(copy.deepcopy(part), device, dtype))


def _rows(
    model: LoadedModel, pipeline: DiffusionPipeline, asked: ModelSampling
) -> Sequence[str] | Sequence[int] | None:
    """A prompt or a class a row; None where the pipeline is told nothing."""
    taken = inspect.signature(pipeline.__call__).parameters
    classes = known_classes(model)
    if "class_labels" in taken and classes is not None:
        if asked.prompt is not None:
            raise ConfigError(f"--prompt: {model.name} takes classes. Give --classes all or 0,3.")
        if asked.classes is None and asked.prompts is None:
            raise ConfigError(
                f"{model.name} takes one of {len(classes):,} classes: give --classes all or 0,3."
            )
        if asked.prompts is None:
            return choose_classes(asked.classes or "", len(classes), classes)
        lines = PromptPictures(asked.prompts).read()
        return [c for line in lines for c in choose_classes(line, len(classes), classes)]
    if asked.classes is not None:
        choose_classes(asked.classes, 0, ())  # nobody to tell
    if "prompt" in taken:
        if asked.prompts is not None:
            return PromptPictures(asked.prompts).read()
        if asked.prompt is None:
            raise ConfigError(
                f"{model.name} takes text: give --prompt TEXT, or --prompts FILE, a prompt a line."
            )
        return [asked.prompt]
    if asked.prompt is not None or asked.prompts is not None:
        raise ConfigError(f"--prompt has nobody to tell: {model.name} draws without text or class.")
    return None
