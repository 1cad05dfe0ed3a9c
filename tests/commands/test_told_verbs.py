"""Verbs that measure tell a denoiser the captions or classes of the pictures."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pelap.cli import main
from pelap.config.run_folder import RunFolder
from pelap.measure.features import ResNet20
from pelap.models.opening import open_model
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


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet-20 with random weights in a PELAP_DATA of the test."""
    file = tmp_path / "data" / "features/resnet20_cifar10.safetensors"
    file.parent.mkdir(parents=True)
    save_file(ResNet20().state_dict(), file)
    monkeypatch.setenv("PELAP_DATA", str(tmp_path / "data"))


DRAWING = ["--evaluation.num-samples", "6", "--evaluation.num-steps", "2",
           "--evaluation.num-bootstraps", "3"]  # fmt: skip


@pytest.mark.usefixtures("judge")
def test_an_evaluation_of_any_model_tells_captions(
    folder: str, captioned: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["evaluate", folder, "--json", "--metrics", "psnr", "fd", *DRAWING, *captioned]
    assert main([*command, "--output", str(tmp_path / "found")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "found" / "evaluation.json").read_text()) == told
    assert told["conditions"] == "captions"
    assert told["num_pictures"] == 8
    assert told["quality"]["psnr_db"]["num_pictures"] == 8
    assert told["quality"]["FD-ResNet20"]["num_pictures"] == 6
    assert main([*command, "--unconditional"]) == 0
    untold = json.loads(capsys.readouterr().out)
    assert untold["conditions"] is None
    assert untold["diffusion_loss"] != told["diffusion_loss"]
    assert untold["quality"]["psnr_db"] == told["quality"]["psnr_db"]
    assert untold["quality"]["FD-ResNet20"] != told["quality"]["FD-ResNet20"]


def test_an_evaluation_of_a_run_takes_no_options_of_models(
    tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", str(tiny_run.path), "--output", str(tmp_path / "a")]) == 2
    assert "--output is for models" in capsys.readouterr().err


def test_an_autoencoder_alone_is_no_model_to_evaluate(
    folder: str, captioned: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", f"{folder}/vae", *captioned]) == 2
    assert "pelap analyze" in capsys.readouterr().err


@pytest.mark.usefixtures("judge")
def test_a_comparison_draws_what_the_pictures_say(
    folder: str, captioned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pelap.commands.compare_models.write_tradeoff", lambda *_: None)
    small, output = tmp_path / "small", tmp_path / "page"
    width = ["--denoiser-macs", "0.8", "--denoiser-criterion", "random"]
    assert main(["prune", folder, "--output", str(small), *width]) == 0
    few = ["--num-pictures", "8", "--num-samples", "6", "--steps", "2", "--batch-sizes", "1"]
    command = ["compare", folder, str(small), "--output", str(output), "--num-prompts", "2"]
    assert main([*command, *few, *captioned, "--evaluation.num-bootstraps", "3"]) == 0
    found = json.loads((output / "tradeoff.json").read_text())
    for one in found["models"]:
        assert one["measured"]["quality"]["FD-ResNet20"]["num_pictures"] == 6
        assert one["measured"]["quality"]["noise_loss"]["value"] > 0
    assert any("told the captions of the test pictures" in note for note in found["notes"])


def test_a_description_of_any_model(folder: str, capsys: pytest.CaptureFixture[str]):
    assert main(["describe", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = open_model(folder)
    assert model.denoiser is not None
    weights = sum(weight.numel() for weight in model.denoiser.parameters())
    assert found["num_parameters"]["denoiser"] == weights
    assert found["shapes"]["latent"][0] == model.num_channels
    assert found["macs"]["denoiser_step"] > weights
    assert main(["describe", folder, "--data.size", "8"]) == 2
    assert "no setting of a run" in capsys.readouterr().err
