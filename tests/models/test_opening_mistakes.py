"""What is given in place of a model or of a folder of pictures gets the line that helps."""

from pathlib import Path

import pytest
from PIL import Image

from pelap.config.run_config import DataConfig
from pelap.core.errors import DataError, ModelError
from pelap.data.load import load_pictures
from pelap.models import loaded
from pelap.models.opening import open_model
from tiny_pipelines import PIPELINES


def test_a_denoisers_own_folder_names_its_pipeline(tmp_path: Path):
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path / "sd")
    with pytest.raises(ModelError, match=f"give the pipeline's folder, {tmp_path / 'sd'}"):
        open_model(tmp_path / "sd" / "unet")


def test_a_picture_names_its_folder(tmp_path: Path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a file: give the folder that holds the pictures"):
        load_pictures(DataConfig(source="folder", path=str(tmp_path / "a.png"), size=16), 0)


def test_a_text_model_without_transformers_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path)
    model = open_model(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise ImportError("no transformers")

    monkeypatch.setattr(loaded, "find_spec", lambda name: None)
    monkeypatch.setattr(loaded.DiffusionPipeline, "from_pretrained", refuse)
    with pytest.raises(ModelError, match=r"pip install .pelap\[text\]"):
        model.pipeline()
