"""Pictures that a model draws of prompts or of its classes, in place of pictures one has."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pelap.cli import main
from pelap.commands.any_model import prompts
from pelap.config.prompts import PromptPictures
from pelap.core.errors import ConfigError, DataError
from pelap.data.load import load_pictures
from pelap.models.conditions import find_conditions, known_classes
from pelap.models.drawn_pictures import draw_pictures
from pelap.models.opening import open_model
from tiny_pipelines import PIPELINES

FAST = {"num_steps": 2, "guidance": 1.5}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("abc\n\n  hello   there \nabc\n")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PELAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_interrupted_goes_on_with_the_same_pictures(
    tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str]
):
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path / "sd")
    model, wanted = open_model(tmp_path / "sd"), prompts(written, 12, **FAST)
    found = draw_pictures(model, wanted)
    assert "12 pictures drawn by sd lie in" in capsys.readouterr().err
    folder = Path(str(found.path))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["abc", "hello there"] * 6
    paths = sorted(folder.glob("*.png"))
    before = [np.asarray(Image.open(path)).astype(int) for path in paths]
    assert len(paths) == 12
    assert not np.array_equal(before[0], before[2])  # the same prompt, other noise
    for path in paths[5:]:
        path.unlink()
    stamp = paths[0].stat().st_mtime_ns
    assert draw_pictures(model, wanted) == found
    assert paths[0].stat().st_mtime_ns == stamp
    after = [np.asarray(Image.open(path)).astype(int) for path in paths]
    assert max(np.abs(a - b).max() for a, b in zip(before, after, strict=True)) <= 1
    splits = load_pictures(found, 0)
    assert set(splits.train.captions or ()) == {"abc", "hello there"}


def test_classes_are_drawn_and_told(tmp_path: Path):
    PIPELINES["dit"]().save_pretrained(tmp_path / "dit")
    model = open_model(tmp_path / "dit")
    classes = len(known_classes(model) or ())
    found = draw_pictures(model, prompts("classes", 2 * classes, **FAST))
    splits = load_pictures(found, 0)
    assert len(splits.train.class_names) == classes
    _, told = find_conditions(model, splits, found.size)
    assert told is not None
    rows = torch.arange(len(splits.train))
    assert torch.equal(told[0].tell(rows)["class_labels"], splits.train.labels)
    with pytest.raises(ConfigError, match="two pictures of each"):
        draw_pictures(model, prompts("classes", classes, **FAST))
    with pytest.raises(ConfigError, match="takes classes"):
        draw_pictures(model, prompts("varied", 8))


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, written: Path):
    for source in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="a prompt or a class a line"):
            prompts(source).check()
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="is empty"):
        prompts(tmp_path / "empty.txt").check()
    with pytest.raises(ConfigError, match="--drawn-steps is 0"):
        prompts(written, num_steps=0).check()
    assert len(PromptPictures("varied").read()) == 200
    PIPELINES["ldm"]().save_pretrained(tmp_path / "ldm")
    with pytest.raises(ConfigError, match="nobody to tell"):
        draw_pictures(open_model(tmp_path / "ldm"), prompts(written))


def test_prune_and_recover_without_a_picture(
    tmp_path: Path, written: Path, capsys: pytest.CaptureFixture[str]
):
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path / "sd")
    drawn = ["--prompts", str(written), "--num-drawn", "16", "--drawn-steps", "2"]
    narrow = ["--denoiser-macs", "0.8", "--num-pictures", "8", "--json"]
    small = str(tmp_path / "small")
    assert main(["prune", str(tmp_path / "sd"), "--output", small, *narrow, *drawn]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["width"]["criterion"] == "taylor"
    assert record["denoiser"]["relative_error"] > 0
    assert record["denoiser"]["followed"] is not None
    command = ["recover", small, "--output", str(tmp_path / "out"), "--steps", "40"]
    command += ["--batch-size", "8", "--num-pictures", "8", "--json"]
    assert main([*command, *drawn]) == 2
    assert "give --teacher" in capsys.readouterr().err
    assert main([*command, *drawn, "--teacher", str(tmp_path / "sd")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["conditions"] == "captions"
    assert record["learning_rate"] == pytest.approx(0.004)  # the highest: layers are narrow
    assert record["noise_loss"] < record["noise_loss_before"]
    assert "| prediction differs |" in (tmp_path / "out" / "README.md").read_text()
    both = ["--data.source", "photos", *drawn, "--teacher", str(tmp_path / "sd")]
    assert main([*command[:3], str(tmp_path / "no"), *command[4:], *both]) == 2
    assert "Give one of --prompts and pictures" in capsys.readouterr().err
