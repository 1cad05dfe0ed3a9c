"""`pelap sample`: pictures from noise, drawn by a run's best model."""

import math
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Literal, cast

import torch
from diffusers.utils.pil_utils import make_image_grid
from PIL import Image
from torch import Tensor

from pelap.config.run_config import EvaluationConfig, RunConfig, SamplerName
from pelap.config.run_folder import RunFolder
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.core.files import write_whole
from pelap.measure.channel_sets import draw_sets, to_mask
from pelap.measure.evaluation_record import ChannelSets, read_evaluation
from pelap.method.pipeline import load_pipeline, read_class_names, to_system
from pelap.method.sampling import SAMPLERS, sample
from pelap.method.system import LatentDiffusion
from pelap.models.precision import InPrecision, Precision, check_precision

ChannelSetChoice = Literal["static", "drawn"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of a file with a grid."""
UNFINISHED = ".unfinished"
"""In a folder of pictures until all are there."""
MOST_NAMES = 100
"""Of classes, that an error lists."""


def load_system(folder: RunFolder, device: torch.device) -> LatentDiffusion:
    """The run's best model, ready to evaluate.

    Raises:
        RunError: If the run has not saved one yet.
    """
    return to_system(load_pipeline(folder.model), folder.config()).to(device).eval()


def is_adaptive(system: LatentDiffusion) -> bool:
    """Whether each input has its own set of channels: a gate that is adaptive and hard."""
    return system.gate is not None and system.gate.is_hard and system.gate.adaptive


def sample_labels(config: RunConfig) -> Tensor | None:
    """Class of each of the evaluation's samples, (N,), in turn; None where nobody is told."""
    num_classes = config.network.num_classes
    return torch.arange(config.evaluation.num_samples) % num_classes if num_classes else None


def draw_samples(
    system: LatentDiffusion,
    config: RunConfig,
    channel_sets: ChannelSets | None = None,
    *,
    how: ChannelSetChoice = "static",
    labels: Tensor | None = None,
) -> Tensor:
    """Pictures from noise as the config's evaluation says, uint8 (N, 3, H, W).

    Args:
        system: The networks.
        config: Its evaluation gives number, sampler, steps and seed.
        channel_sets: What an adaptive gate was measured to do; needed for one.
        how: For an adaptive gate, its best static set, or sets drawn from the measured frequencies.
        labels: Class of each picture, (N,).
    """
    evaluation, masks = config.evaluation, None
    if channel_sets is not None:
        channels, num = config.network.latent_channels, evaluation.num_samples
        if how == "static":
            masks = to_mask(channel_sets.static.channels, channels)
        else:
            masks = draw_sets(channel_sets, num, channels, evaluation.seed)
    return sample(
        system,
        config,
        num_samples=evaluation.num_samples,
        sampler=evaluation.sampler,
        num_steps=evaluation.num_steps,
        seed=evaluation.seed,
        masks=masks,
        labels=labels,
        guidance=evaluation.guidance,
    )


def choose_classes(asked: str, num_classes: int, names: Sequence[str]) -> list[int]:
    """The classes of "all", or of names or numbers with commas between.

    Raises:
        ConfigError: If the model is told no classes, or there is no such class.
    """
    if not num_classes:
        raise ConfigError("--classes has nobody to tell: this model's denoiser knows no classes.")
    if asked == "all":
        return list(range(num_classes))
    known = {word.strip(): i for i, name in enumerate(names) for word in name.split(",")}
    known |= {str(index): index for index in range(num_classes)}
    shown = "" if len(names) > MOST_NAMES else ", ".join(names)
    words = [word.strip() for word in asked.split(",")]
    for word in words:
        if word not in known:
            raise ConfigError(
                f"--classes names {word!r}: there are all, 0 to {num_classes - 1}"
                + (f", {shown}." if shown else ".")
            )
    return [known[word] for word in words]


def sample_run(
    folder: RunFolder,
    output: Path,
    *,
    sampler: str = "ddim",
    num_steps: int = 50,
    num_samples: int | None = None,
    classes: str | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    channel_sets: ChannelSetChoice = "static",
    precision: Precision = "fp32",
    compiled: bool = False,
) -> None:
    """Draw pictures with a run's best model: one grid, or a folder.

    Args:
        folder: The run.
        output: A file that ends in one of SUFFIXES, for one grid, or a new folder.
        sampler: One of `pelap.method.sampling.SAMPLERS`.
        num_steps: Steps of the sampler.
        num_samples: Pictures, 64 by default; with `classes` of each of them, 8 by default.
        classes: "all", or names or numbers with commas between, for a model that is told classes.
        guidance: Towards the class, see `pelap.method.sampling.denoise`.
        seed: Of the noise.
        channel_sets: For an adaptive gate: its best static set, or sets drawn from the frequencies
            measured by `pelap evaluate`.
        precision: Of the denoiser and the decoder.
        compiled: Whether torch.compile translates both first.

    Raises:
        ConfigError: If the sampler, the precision, a count or `output` cannot be used.
        RunError: If the run has no model yet, or an adaptive gate was not evaluated.
    """
    config = folder.config()
    asked = EvaluationConfig(
        num_samples=num_samples if num_samples is not None else 64 if classes is None else 8,
        sampler=cast(SamplerName, sampler),
        num_steps=num_steps,
        guidance=guidance,
        seed=seed,
    )
    _check(asked, config, output, classes)
    device = torch_device()
    check_precision(precision, device)
    system = load_system(folder, device)
    labels, columns = None, math.ceil(math.sqrt(asked.num_samples))
    if classes is not None:
        chosen = choose_classes(classes, config.network.num_classes, read_class_names(folder.model))
        labels, columns = torch.tensor(chosen).repeat_interleave(num := asked.num_samples), num
        asked = replace(asked, num_samples=len(labels))
    for name in ("denoiser", "autoencoder"):
        network = getattr(system, name)
        setattr(system, name, InPrecision(network, precision, compiled=compiled, device=device))
    measured = read_evaluation(folder).channel_sets if is_adaptive(system) else None
    config = replace(config, evaluation=asked)
    pictures = draw_samples(system, config, measured, how=channel_sets, labels=labels)
    save_pictures(pictures, columns, output)


def _check(asked: EvaluationConfig, config: RunConfig, output: Path, classes: str | None) -> None:
    most = config.noise.num_timesteps
    if asked.sampler not in SAMPLERS:
        raise ConfigError(f"--sampler is {asked.sampler!r}: known are {', '.join(SAMPLERS)}.")
    if not 1 <= asked.num_steps <= most:
        raise ConfigError(f"--steps is {asked.num_steps}: from 1 to {most}.")
    if asked.num_samples < 1:
        raise ConfigError(f"--num is {asked.num_samples}: it must be at least 1.")
    if asked.guidance < 1:
        raise ConfigError(f"--guidance is {asked.guidance}: it must be at least 1.")
    check_output(output)
    if classes is None and asked.guidance != 1:
        raise ConfigError(f"--guidance is {asked.guidance}: it needs --classes.")


def check_output(output: Path) -> None:
    """Refuse a file of another kind, and what exists; a folder that a call that was killed left
    half written may be written again.

    Raises:
        ConfigError: One line.
    """
    if output.suffix.lower() in set(Image.registered_extensions()) - {*SUFFIXES}:
        raise ConfigError(f"--output {output}: give a {' or '.join(SUFFIXES)} file, or a folder.")
    if output.exists() and not (output / UNFINISHED).is_file():
        raise ConfigError(f"--output {output} exists already: choose another.")


def save_pictures(pictures: Tensor, columns: int, output: Path) -> None:
    """As `save_images`, of pictures as bytes, uint8 (N, 3, H, W)."""
    images = [Image.fromarray(x) for x in pictures.permute(0, 2, 3, 1).numpy()]
    save_images(images, columns, output)


def save_images(images: Sequence[Image.Image], columns: int, output: Path) -> None:
    """Write pictures of one size as one grid if `output` is a picture, else into a folder."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix.lower() in SUFFIXES:
        blanks = [Image.new("RGB", images[0].size, "white")] * (-len(images) % columns)
        grid = make_image_grid([*images, *blanks], -(-len(images) // columns), columns)
        write_whole(output, _encoded(grid, Image.registered_extensions()[output.suffix.lower()]))
        return
    output.mkdir(exist_ok=True)
    (output / UNFINISHED).touch()
    for index, image in enumerate(images):
        write_whole(output / f"{index:05d}.png", _encoded(image, "PNG"))
    (output / UNFINISHED).unlink()


def _encoded(image: Image.Image, kind: str) -> bytes:
    encoded = BytesIO()
    image.save(encoded, kind)
    return encoded.getvalue()
