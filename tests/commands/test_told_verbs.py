"""Verbs that measure tell a denoiser the captions or classes of the pictures."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pelap.cli import main
from tiny_pipelines import PIPELINES

SIZE = 16
WORDS = ("abc", "hello", "a b", "zyx")
PHOTOS = ["--data.source", "photos", "--data.size", str(SIZE)]
FEW = ["--num-pictures", "8", "--num-curve", "8", "--learned-steps", "0", "--json"]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings that name pictures with captions."""
    root = tmp_path_factory.mktemp("captioned")
    source = torch.Generator().manual_seed(0)
    for split, num in (("train", 16), ("test", 8)):
        (root / split).mkdir()
        rows = []
        for index in range(num):
            pixels = torch.randint(256, (SIZE, SIZE, 3), generator=source, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / split / f"{index:02}.png")
            text = WORDS[index % len(WORDS)]
            rows.append(json.dumps({"file_name": f"{index:02}.png", "text": text}) + "\n")
        (root / split / "metadata.jsonl").write_text("".join(rows))
    return ["--data.source", "folder", "--data.path", str(root), "--data.size", str(SIZE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pipelines") / "sd"
    PIPELINES["stable_diffusion"]().save_pretrained(path)
    return str(path)


def test_an_analysis_tells_captions(
    folder: str, captioned: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = []
    for name, more in (("told", []), ("untold", ["--unconditional"])):
        command = ["analyze", folder, "--output", str(tmp_path / name), *FEW, *captioned, *more]
        assert main(command) == 0
        found.append(json.loads(capsys.readouterr().out))
    told, untold = ([channel["taylor"] for channel in one["channels"]] for one in found)
    assert told != untold
    assert found[0]["psnr_db"] == found[1]["psnr_db"]


def test_an_analysis_without_captions_says_what_it_left_out(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["analyze", folder, "--output", str(tmp_path / "a"), *FEW, *PHOTOS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "taylor" not in [one["name"] for one in found["criteria"]]
    assert any("takes text, and the pictures have no captions" in note for note in found["notes"])


def test_an_analysis_of_pictures_that_the_model_draws(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(WORDS))
    drawn = ["--prompts", str(prompts), "--num-drawn", "16", "--drawn-steps", "2"]
    assert main(["analyze", folder, "--output", str(tmp_path / "a"), *FEW, *drawn]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "taylor" in [one["name"] for one in found["criteria"]]


def test_a_diagnosis_tells_captions(
    folder: str, captioned: list[str], capsys: pytest.CaptureFixture[str]
):
    losses = []
    for more in ([], ["--unconditional"]):
        assert main(["diagnose", folder, "--num-pictures", "8", "--json", *captioned, *more]) == 0
        losses.append(json.loads(capsys.readouterr().out)["diffusion_loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)  # weights are random


def test_a_diagnosis_without_captions_is_refused(folder: str, capsys: pytest.CaptureFixture[str]):
    assert main(["diagnose", folder, "--num-pictures", "8", *PHOTOS]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--data.caption-column" in said
    assert "--prompts" in said
    assert "--unconditional" in said
