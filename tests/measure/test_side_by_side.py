"""The same rows drawn by several pipelines: the same noise, carried noise, and the differences."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pelap.commands.compare_pictures import RowSettings, choose_rows, draw_side_by_side
from pelap.config.run_config import DataConfig, RunConfig
from pelap.core.errors import ConfigError
from pelap.measure.side_by_side import carried_noise, carries_noise
from pelap.measure.side_by_side_record import SideBySide
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.pages.drawn_rows import describe_rows, to_picture
from tiny_pipelines import PIPELINES

PICTURES = RunConfig(data=DataConfig(source="photos", size=16, num_test=4))


def rows(folder: Path, *lines: str, **more: Any) -> RowSettings:
    file = folder / "prompts.txt"
    file.write_text("\n".join(lines))
    return RowSettings(file, drawn_steps=2, **more)


def draw(models: list[LoadedModel], settings: RowSettings) -> SideBySide:
    drawn, reason = draw_side_by_side(models, PICTURES, settings, 0, None)
    assert drawn is not None, reason
    return drawn


def recorded(model: LoadedModel, **record: Any) -> LoadedModel:
    """The same model under another name, with a record of a pruning."""
    other = replace(open_model(PIPELINES["ldm"]()), name="other")
    other.autoencoder.register_to_config(  # type: ignore[operator]
        _pelap=[{"channels_before": model.num_channels, **record}]
    )
    return other


def test_the_same_model_draws_the_same_pictures_and_another_prompt_another(tmp_path: Path):
    model = open_model(PIPELINES["stable_diffusion"]())
    again = replace(open_model(PIPELINES["stable_diffusion"]()), name="again")
    drawn = draw([model, again], rows(tmp_path, "red", "", "blue", guidance=4.0))
    assert drawn.rows == ("red", "blue")
    first, second = drawn.columns
    assert first.pictures[0].shape == (16, 16, 3)
    assert not np.array_equal(first.pictures[0], first.pictures[1])
    assert [difference.psnr_db for difference in second.differences] == [None, None]
    assert "the same picture" in describe_rows(drawn)[0]
    assert drawn.as_dict()["models"][1]["noise"] == "the reference's own"
    assert drawn.settings == "2 steps, guidance 4"


def test_a_text_model_without_captions_is_asked_for_nothing():
    drawn, reason = draw_side_by_side(
        [open_model(PIPELINES["stable_diffusion"]())], PICTURES, RowSettings(), 0, None
    )
    assert drawn is None
    assert reason.endswith("give --prompts FILE, a prompt a line.")


def test_class_models_take_names_or_numbers(tmp_path: Path):
    model = open_model(PIPELINES["dit"]())
    found, _ = choose_rows(model, PICTURES, rows(tmp_path, "7", "12"))
    assert [(row.title, row.arguments) for row in found] == [
        ("class 7", {"class_labels": [7]}), ("class 12", {"class_labels": [12]})
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="'1000': give a class a line"):
        choose_rows(model, PICTURES, rows(tmp_path, "1000"))
    assert len(draw([model], rows(tmp_path, "7")).columns[0].pictures) == 1


def test_noise_is_carried_by_a_rotation_and_drawn_anew_by_what_is_none(tmp_path: Path):
    """A rotation that exchanges channels gives exchanged noise, as its pipeline draws it."""
    swap = torch.eye(4)[[1, 0, 3, 2]]
    model = open_model(PIPELINES["ldm"]())
    pipeline: Any = model.pipeline()
    noises: list[torch.Tensor] = []
    pipeline.unet.register_forward_pre_hook(lambda _, given: noises.append(given[0].clone()))
    for encode in (None, swap.double()):
        with carried_noise(pipeline, encode):
            pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=1)
    assert torch.equal(noises[1], noises[0][:, [1, 0, 3, 2]])

    turned = recorded(model, rotation="pca", encode=swap.tolist())
    drawn = draw([model, turned], RowSettings(num_rows=1, drawn_steps=2))
    assert "carried to 4 channels" in drawn.columns[1].noise
    assert drawn.columns[1].mean is not None
    assert drawn.columns[1].mean.psnr_db is not None
    stretched = recorded(model, rotation="pca", encode=(2 * swap).tolist())
    assert not carries_noise(2 * swap)
    drawn = draw([model, stretched], RowSettings(num_rows=1, drawn_steps=2))
    assert drawn.columns[1].noise.startswith("its own")


def test_small_pictures_are_a_whole_number_of_times_as_large():
    small, large = (np.zeros((side, side, 3), np.uint8) for side in (32, 512))
    assert (to_picture(small, "").side, to_picture(small, "").is_crisp) == (160, True)
    assert (to_picture(large, "").side, to_picture(large, "").is_crisp) == (168, False)
