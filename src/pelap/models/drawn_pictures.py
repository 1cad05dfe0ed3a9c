"""A folder of pictures that a model drew from prompts or classes, kept in pelap's cache."""

import io
import json
from pathlib import Path

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from pelap.config.prompts import CLASSES, PromptPictures
from pelap.config.run_config import DataConfig
from pelap.core.cache import cache_folder
from pelap.core.devices import process_state, torch_device
from pelap.core.digests import digest
from pelap.core.errors import ConfigError
from pelap.core.files import write_whole
from pelap.core.notes import note
from pelap.core.progress import track
from pelap.core.seeding import generator
from pelap.models.conditions import known_classes, wants_condition
from pelap.models.drawing import DrawingRequest, draw
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import picture_size

AT_A_TIME = 8


def draw_pictures(model: LoadedModel, wanted: PromptPictures) -> DataConfig:
    """Let a model draw what it is to be measured or trained on, and say where that lies.

    The folder is an ordinary one with captions in metadata.jsonl, or a folder for each class. What
    was interrupted goes on; what was drawn before is not drawn again.

    Args:
        model: The unpruned one.
        wanted: Prompts, number, guidance, steps and seed.

    Raises:
        ConfigError: If it is told nothing, or the number is too small.
        DataError: If the prompts cannot be read.
        ModelError: If its pipeline cannot draw.
    """
    wanted.check()
    size = picture_size(model)
    said = _asked(model, wanted)
    how = DrawingRequest(size, wanted.guidance, wanted.num_steps)
    pipeline = model.pipeline()
    scheduler = {k: v for k, v in model.scheduler_config.items() if not k.startswith("_")}
    key = digest(type(pipeline).__name__, scheduler, model.denoiser, model.autoencoder,
                 said, vars(how), wanted.num_drawn, wanted.seed)  # fmt: skip
    folder = cache_folder("drawn", key[:24])
    with process_state().local_main_process_first():
        _draw_missing(pipeline, folder, said, how, wanted)
    note(f"{wanted.num_drawn:,} pictures drawn by {model.name} lie in {folder}.")
    return DataConfig(source="folder", path=str(folder), size=size)


def _asked(model: LoadedModel, wanted: PromptPictures) -> list[str] | list[int]:
    """A prompt or a class for each picture."""
    classes, num = known_classes(model), wanted.num_drawn
    if not wants_condition(model):
        raise ConfigError(
            f"--prompts has nobody to tell: {model.name} draws without text or class. Give "
            "pictures with --data.source."
        )
    if classes is None and wanted.prompts == CLASSES:
        raise ConfigError(f"--prompts {CLASSES}: {model.name} takes text. Give a file or varied.")
    if classes is None:
        prompts = wanted.read()
        return [prompts[place % len(prompts)] for place in range(num)]
    if wanted.prompts != CLASSES:
        raise ConfigError(
            f"--prompts {wanted.prompts}: {model.name} takes classes. Give --prompts {CLASSES}."
        )
    if num < 2 * len(classes):
        raise ConfigError(
            f"--num-drawn is {num}: {model.name} takes {len(classes):,} classes, and two pictures "
            "of each are the least."
        )
    return [place % len(classes) for place in range(num)]


def _draw_missing(
    pipeline: DiffusionPipeline,
    folder: Path,
    said: list[str] | list[int],
    how: DrawingRequest,
    wanted: PromptPictures,
) -> None:
    paths = [_path(folder, number, told) for number, told in enumerate(said)]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    if missing and isinstance(said[0], str):
        rows = [
            {"file_name": path.name, "text": told} for path, told in zip(paths, said, strict=True)
        ]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(folder / "metadata.jsonl", lines.encode())
    if not missing:
        return
    pipeline.to(torch_device())
    starts = range(0, len(missing), AT_A_TIME)
    for start in track(starts, f"Drawing {len(missing):,} pictures"):
        part = missing[start : start + AT_A_TIME]
        sources = [generator(wanted.seed, "sampling", number) for number in part]
        pictures = draw(pipeline, [said[number] for number in part], sources, how)  # type: ignore
        for number, picture in zip(part, pictures, strict=True):
            paths[number].parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            write_whole(paths[number], buffer.getvalue())
    pipeline.to("cpu")


def _path(folder: Path, number: int, told: str | int) -> Path:
    name = f"{number:06d}.png"
    return folder / name if isinstance(told, str) else folder / f"{told:04d}" / name
