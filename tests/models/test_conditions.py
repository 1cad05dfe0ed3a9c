"""What a denoiser is told of each picture is what its own pipeline tells it."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch import Tensor

from pelap.cli import main
from pelap.config.run_config import DataConfig
from pelap.data.load import load_pictures
from pelap.models.conditions import find_conditions
from pelap.models.opening import open_model
from pelap.models.unconditional import without_condition
from tiny_pipelines import PIPELINES

WORDS = ("abc", "hello", "a b", "zyx")
SIZE = 16


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures in two folders, each with one of four captions."""
    root = tmp_path_factory.mktemp("captioned")
    for split, num in (("train", 16), ("test", 8)):
        (root / split).mkdir()
        rows = []
        for index in range(num):
            Image.new("RGB", (SIZE, SIZE), (10 * index,) * 3).save(root / split / f"{index:02}.png")
            text = WORDS[index % len(WORDS)]
            rows.append(json.dumps({"file_name": f"{index:02}.png", "text": text}) + "\n")
        (root / split / "metadata.jsonl").write_text("".join(rows))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipelines") / "sd"
    PIPELINES["stable_diffusion"]().save_pretrained(path)
    return path


def config(captioned: Path) -> DataConfig:
    return DataConfig(source="folder", path=str(captioned), size=SIZE)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3", "flux"])
def test_captions_are_told_as_the_pipeline_does(name: str, captioned: Path, tmp_path: Path):
    PIPELINES[name]().save_pretrained(tmp_path)
    model = open_model(tmp_path)
    told, found = find_conditions(model, load_pictures(config(captioned), 0), SIZE)
    assert told.condition is not None
    assert found is not None
    pipeline: Any = told.pipeline()
    encoded = pipeline.encode_prompt(WORDS[1], *_arguments(name))
    wanted: Tensor = encoded[0]
    said = found[0].tell(torch.tensor([1, 0, 5]), torch.tensor([False, True, False]))
    given = said["encoder_hidden_states"]
    assert torch.allclose(given[0], wanted[0], atol=1e-4)
    assert torch.equal(given[0], given[2])
    empty = told.condition.arguments["encoder_hidden_states"][0]
    assert torch.allclose(given[1], empty, atol=1e-4)
    assert not torch.allclose(given[0], empty, atol=1e-3)


def _arguments(name: str) -> tuple[Any, ...]:
    if name == "stable_diffusion":
        return ("cpu", 1, False)
    return (WORDS[1], WORDS[1]) if name == "stable_diffusion_3" else (WORDS[1],)


def test_a_denoiser_predicts_otherwise_for_other_captions(folder: Path, captioned: Path):
    told, found = find_conditions(open_model(folder), load_pictures(config(captioned), 0), SIZE)
    assert found is not None
    system, source = told.system(), torch.Generator().manual_seed(0)
    noisy = torch.randn(1, told.num_channels, 8, 8, generator=source).expand(2, -1, -1, -1)
    timesteps = torch.full((2,), 500)
    with torch.no_grad():
        one, other = system.predict(noisy, timesteps, found[0].tell(torch.tensor([0, 1])))
        same = system.predict(noisy, timesteps, found[1].tell(torch.tensor([0, 4])))
    assert not torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(same[0], same[1], atol=1e-4)


def test_classes_are_told_where_there_are_as_many(tmp_path: Path, captioned: Path):
    PIPELINES["dit"]().save_pretrained(tmp_path)
    model = open_model(tmp_path)
    classes: Any = model.denoiser.config["num_embeds_ada_norm"]  # type: ignore[union-attr]
    splits = load_pictures(config(captioned), 0)
    assert find_conditions(model, splits, SIZE) == (model, None)  # one class of pictures
    root = tmp_path / "classes"
    for split in ("train", "test"):
        for name in range(classes):
            (root / split / str(name)).mkdir(parents=True)
            Image.new("RGB", (SIZE, SIZE)).save(root / split / str(name) / "0.png")
    splits = load_pictures(config(root), 0)
    told, found = find_conditions(model, splits, SIZE)
    assert found is not None
    rows = torch.arange(classes)
    assert torch.equal(found[0].tell(rows)["class_labels"], splits.train.labels)
    dropped = found[0].tell(rows, torch.ones(classes, dtype=torch.bool))["class_labels"]
    assert dropped.tolist() == [classes] * classes
    assert told.condition is not None


def test_a_class_without_a_none_is_told_and_never_dropped(tmp_path: Path):
    pipeline: Any = PIPELINES["ldm"]()
    config = {name: value for name, value in pipeline.unet.config.items() if name[0] != "_"}
    build: Any = UNet2DModel
    pipeline.register_modules(unet=build(**config | {"num_class_embeds": 2}))
    pipeline.save_pretrained(tmp_path / "model")
    for split, name in product(("train", "test"), "ab"):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "data" / split / name / "0.png")
    splits = load_pictures(DataConfig(source="folder", path=str(tmp_path / "data"), size=SIZE), 0)
    told, found = find_conditions(open_model(tmp_path / "model"), splits, SIZE)
    assert found is not None
    rows, drops = torch.arange(2), torch.ones(2, dtype=torch.bool)
    assert torch.equal(found[0].tell(rows, drops)["class_labels"], splits.train.labels)
    noisy = torch.zeros(2, told.num_channels, 8, 8)
    with torch.no_grad():
        first, second = told.system().predict(noisy, rows.new_full((2,), 500), found[0].tell(rows))
    assert not torch.equal(first, second)


def test_a_model_that_wants_none_or_has_one_is_given_back(folder: Path, captioned: Path):
    splits = load_pictures(config(captioned), 0)
    told = without_condition(open_model(folder), SIZE)
    assert find_conditions(told, splits, SIZE) == (told, None)
    photos = load_pictures(DataConfig(size=SIZE, num_train=8, num_test=4), 0)
    model = open_model(folder)
    assert find_conditions(model, photos, SIZE) == (model, None)


def test_prune_and_recover_with_captions(
    folder: Path, captioned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    small, better = tmp_path / "small", tmp_path / "better"
    data = ["--data.source", "folder", "--data.path", str(captioned)]
    data += ["--data.size", str(SIZE), "--num-pictures", "8", "--json"]
    narrow = ["prune", str(folder), "--output", str(small), "--denoiser-macs", "0.8"]
    assert main([*narrow, *data]) == 0
    assert json.loads(capsys.readouterr().out)["width"]["criterion"] == "taylor"
    command = ["recover", str(small), "--teacher", str(folder), "--output", str(better)]
    command += ["--steps", "20", "--batch-size", "8", "--learning-rate", "3e-3", *data]
    assert main(command) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert record["conditions"] == "captions"
    assert not record["unconditional"]
    assert "no longer follow" not in said.err
    assert record["noise_loss"] < record["noise_loss_before"]
    assert "told their captions" in (better / "README.md").read_text()
    assert open_model(better).history[-1] == record


def test_a_dropout_that_is_no_share_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["recover", str(folder), "--output", str(tmp_path / "no"), "--steps", "1"]
    assert main([*command, "--condition-dropout", "1", "--data.source", "photos"]) == 2
    assert "--condition-dropout is 1.0" in capsys.readouterr().err
