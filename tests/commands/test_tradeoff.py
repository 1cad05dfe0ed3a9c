"""`pelap compare MODEL MODEL …`: what is measured, resumed, refused; small models throughout."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pelap.cli import main
from pelap.commands.compare_measure import TradeoffSettings, measure_model
from pelap.commands.compare_models import compare_subjects
from pelap.commands.compare_pictures import RowSettings
from pelap.commands.compared_models import giver_of, labels_of, open_subjects
from pelap.config.presets import tiny
from pelap.config.run_config import EvaluationConfig, GateConfig, NetworkConfig, RunConfig
from pelap.core.errors import ConfigError, ModelError
from pelap.core.json_values import JsonObject
from pelap.measure.features import ResNet20
from pelap.measure.model_quality import TO_UNPRUNED, make_references
from pelap.models.model_pictures import pictures_config
from pelap.models.opening import open_model
from pelap.pages import canvas, tradeoff_points
from pelap.training.trainer import train
from tiny_pipelines import PIPELINES

CPU = torch.device("cpu")
SETTINGS = TradeoffSettings(num_pictures=24, num_samples=6, steps=2, batch_sizes=(1, 2), rounds=1)


FEW_ROWS = RowSettings(num_rows=2, drawn_steps=2)


def tradeoff(
    paths: Sequence[str | Path],
    output: Path,
    settings: TradeoffSettings,
    overrides: Sequence[str] = (),
) -> JsonObject:
    """What tradeoff.json holds about these models."""
    subjects = open_subjects(paths)
    config = pictures_config(giver_of(subjects), overrides)
    return compare_subjects(subjects, output, config, settings, FEW_ROWS).as_dict()


OPTIONS = ["--num-pictures", "24", "--num-samples", "6", "--steps", "2", "--batch-sizes", "1", "2",
           "--num-prompts", "2", "--evaluation.num-bootstraps", "3"]  # fmt: skip
FD = "FD-ResNet20"


def config() -> RunConfig:
    """A run that needs seconds: diffusers' networks, so that pruning it gives a pipeline."""
    small = tiny()
    return replace(
        small,
        data=replace(small.data, num_train=64, num_test=32),
        network=NetworkConfig("kl", "unet_2d", 4, 8, 16, normalize_latents=True),
        gate=GateConfig(kind="open"),
        evaluation=EvaluationConfig(batch_size=16, num_bootstraps=3),
        run=replace(small.run, epochs=1),
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and what `pelap prune` makes of it."""
    root = tmp_path_factory.mktemp("models")
    train(config(), root / "whole")
    few = ["--num-pictures", "24", "--num-curve", "8", "--num-search", "4", "--learned-steps", "1"]
    for name, way in {
        "chance": ["--keep", "2", "--criterion", "random"],
        "chosen": ["--keep", "2", "--criterion", "variance"],
        "thin": ["--denoiser-macs", "0.8", "--denoiser-criterion", "magnitude"],
    }.items():
        command = ["prune", str(root / "whole"), "--output", str(root / name), *way, *few]
        assert main(command) == 0
    return root


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ResNet-20 with random weights in a PELAP_DATA of the test, and a cache of its own."""
    file = tmp_path / "data" / "features/resnet20_cifar10.safetensors"
    file.parent.mkdir(parents=True)
    save_file(ResNet20().state_dict(), file)
    monkeypatch.setenv("PELAP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PELAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(canvas, "DPI", 48)
    return file


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read the JSON: drawing takes seconds."""
    monkeypatch.setattr("pelap.commands.compare_models.write_tradeoff", lambda *_: None)


def three(models: Path) -> list[str]:
    return [str(models / name) for name in ("chosen", "chance", "whole")]


def test_compare_models(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "page"
    assert main(["compare", *three(models), "--output", str(output), *OPTIONS]) == 0

    printed = capsys.readouterr().out.splitlines()
    result = json.loads((output / "tradeoff.json").read_text())
    assert printed[0] == result["findings"]["lead"]
    assert list(result["denoisers"]) == ["chance", "chosen"]
    assert all(0 < one["relative_error"] < 2 for one in result["denoisers"].values())
    assert "What the denoisers predict" in (output / "tradeoff.html").read_text()
    assert any("chosen predicts " in line for line in printed)
    assert printed[-1] == str(output / "tradeoff.html")
    assert [(one["label"], one["role"]) for one in result["models"]] == [
        ("whole", "unpruned"), ("chance", "random"), ("chosen", "pruned")
    ]  # fmt: skip
    assert [one["description"] for one in result["models"]] == [
        "as trained", "2 of 4 latents, random", "2 of 4 latents, variance"
    ]  # fmt: skip
    for one in result["models"]:
        assert set(one["quality"]) == {"psnr_db", "rFD-ResNet20", FD, FD + TO_UNPRUNED,
                                       "noise_loss"}  # fmt: skip
        assert one["quality"][FD]["low"] < one["quality"][FD]["mean"]
        assert one["measured"]["quality"][FD]["num_pictures"] == 6
        assert one["measured"]["quality"][FD]["num_references"] == 32
        assert one["measured"]["quality"][FD + TO_UNPRUNED]["num_references"] == 24
        assert set(one["cost"]) == {"time_batch_1", "time_batch_2", "macs", "parameters",
                                    "latent_bytes"}  # fmt: skip
    whole, chance, chosen = (one["cost"] for one in result["models"])
    assert whole["time_batch_2"] == {
        "mean": 1, "low": 1, "high": 1, "is_comparable": True
    }  # fmt: skip
    assert (whole["latent_bytes"]["mean"], chosen["latent_bytes"]["mean"]) == (256, 128)
    assert chance["macs"] == chosen["macs"]
    page = (output / "tradeoff.html").read_text()
    assert "6 samples of each model against 32 test pictures" in page
    assert str(tmp_path) not in page + (output / "tradeoff.json").read_text()
    assert {file.stem for file in (output / "figures").iterdir()} == {
        "tradeoff_psnr_db", "tradeoff_noise_loss"
    }  # fmt: skip
    assert not any(one["quality"][FD]["is_comparable"] for one in result["models"])
    assert "not comparable, of fewer than 1,000 pictures" in "\n".join(printed)
    assert not re.search(r"dominates|beaten", "\n".join(printed) + page)
    drawn = result["side_by_side"]
    assert drawn["rows"] == ["seed 0", "seed 1"]
    assert [one["label"] for one in drawn["models"]] == ["whole", "chance", "chosen"]
    assert drawn["models"][2]["noise"].startswith("whole's, carried to 2 channels")
    assert f"{drawn['models'][2]['mean']['psnr_db']:.1f} dB, features" in page
    assert page.count('class="crisp"') == 6


@pytest.mark.usefixtures("no_page")
def test_what_was_measured_is_not_measured_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = tradeoff(three(models), tmp_path / "page", SETTINGS)
    files = sorted((tmp_path / "page" / "measured").iterdir())
    assert [file.name.rpartition("-")[0] for file in files] == ["chance", "chosen", "whole"]

    measured = []

    def measure(model: Any, *more: Any) -> JsonObject:
        measured.append(model.name)
        return measure_model(model, *more)

    monkeypatch.setattr("pelap.commands.compare_models.measure_model", measure)
    assert tradeoff(three(models), tmp_path / "page", SETTINGS) == first
    assert measured == []
    files[1].unlink()
    tradeoff(three(models), tmp_path / "page", SETTINGS)
    assert measured == ["chosen"]
    tradeoff(three(models), tmp_path / "page", replace(SETTINGS, seed=1))
    assert measured[1:] == ["whole", "chance", "chosen"]


def test_quality_is_the_same_at_every_call_and_of_the_model_that_is_asked_for(models: Path):
    whole, chosen = open_model(models / "whole"), open_model(models / "chosen")
    references = make_references(whole, config(), SETTINGS, CPU)
    found = [
        measure_model(model, whole, config(), SETTINGS, references)["quality"]
        for model in (chosen, chosen, whole)
    ]
    assert found[0] == found[1]
    for name in found[0]:
        assert found[0][name]["value"] != found[2][name]["value"], name
    references = make_references(whole, config(), SETTINGS, CPU)
    errors = references.originals[:24].double() - references.reconstructions.double()
    psnr = 10 * (255**2 / errors.square().mean()).log10()
    assert found[2]["psnr_db"]["value"] == pytest.approx(float(psnr))


def test_without_the_extractor_there_are_no_distances(models: Path, tmp_path: Path, own_data: Path):
    own_data.unlink()
    result = tradeoff([*three(models), models / "thin"], tmp_path / "page", SETTINGS)
    for one in result["models"]:
        assert set(one["quality"]) == {"psnr_db", "noise_loss"}
    page = (tmp_path / "page" / "tradeoff.html").read_text()
    assert "No Fréchet distances: No ResNet-20 weights" in page
    assert "thin has no random model of its size here" in page
    assert (tmp_path / "page" / "figures" / "tradeoff_noise_loss.png").is_file()


@pytest.mark.usefixtures("no_page")
def test_pictures_come_from_the_run_or_are_named(models: Path, tmp_path: Path):
    pipelines = [tmp_path / name for name in ("whole", "chance")]
    PIPELINES["ldm"]().save_pretrained(pipelines[0])
    options = ["--data.source", "photos", "--data.size", "16", "--data.num-test", "24"]
    few = ["--num-pictures", "24", "--num-curve", "8", "--num-search", "4", "--learned-steps", "1"]
    command = ["prune", str(pipelines[0]), "--output", str(pipelines[1]), "--keep", "2",
               "--criterion", "random", *few, *options]  # fmt: skip
    assert main(command) == 0
    with pytest.raises(ConfigError, match=r"whole names no pictures: give --data\.source"):
        tradeoff(pipelines, tmp_path / "page", SETTINGS)
    result = tradeoff(pipelines, tmp_path / "page", SETTINGS, options)
    assert [one["role"] for one in result["models"]] == ["unpruned", "random"]
    assert result["findings"]["lead"].startswith("No pruned model here")
    run = open_model(models / "whole")
    assert pictures_config(run, []).data == config().data


@pytest.mark.usefixtures("no_page")
def test_conditional_models_are_compared_by_their_reconstructions(tmp_path: Path):
    pipelines = [tmp_path / name for name in ("whole", "chance")]
    PIPELINES["stable_diffusion"]().save_pretrained(pipelines[0])
    command = ["prune", str(pipelines[0]), "--output", str(pipelines[1]), "--denoiser-macs", "0.8",
               "--denoiser-criterion", "random"]  # fmt: skip
    assert main(command) == 0
    options = ["--data.source", "photos", "--data.size", "16", "--data.num-test", "24"]
    result = tradeoff(pipelines, tmp_path / "page", SETTINGS, options)
    assert [set(one["quality"]) for one in result["models"]] == [{"psnr_db", "rFD-ResNet20"}] * 2
    assert sum("no samples" in note for note in result["notes"]) == 2
    assert result["models"][1]["denoiser_changed"]
    assert any("chance: samples not measured" in s for s in result["findings"]["sentences"])
    assert result["side_by_side"] is None
    assert "whole takes text, and the pictures have no captions" in result["notes"][-1]


@pytest.mark.usefixtures("no_page")
def test_neither_an_unpruned_nor_a_random_model_is_needed(models: Path, tmp_path: Path):
    options = ["--data.source", "photos", "--data.size", "16", "--data.num-test", "24"]
    alone = tradeoff([models / "chosen"], tmp_path / "alone", SETTINGS, options)
    assert [one["label"] for one in alone["models"]] == ["chosen"]
    said = " ".join([alone["findings"]["lead"], *alone["findings"]["sentences"]])
    assert "No unpruned model is among them" in said
    assert "No model pruned at random is among them" in said
    assert alone["side_by_side"]["models"][0]["mean"] is None


def test_what_cannot_be_is_refused(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "file"
    file.write_text("")
    for more, message in (
        (["--output", str(file)], "is a file"),
        (["--output", str(tmp_path / "p"), "--num-samples", "1"], "--num-samples is 1"),
        (["--output", str(tmp_path / "p"), "--num-prompts", "0"], "--num-prompts is 0"),
        (["--output", str(tmp_path / "p"), "--prompts", str(file)], "is empty: give a prompt"),
        (["--output", str(tmp_path / "p"), "--sampler", "euler"], "--sampler is 'euler'"),
        (["--output", str(tmp_path / "p"), "--steps", "0"], "--steps is 0"),
        (["--output", str(tmp_path / "p"), "--batch-sizes", "2", "2"], "names a number twice"),
        (["--output", str(tmp_path / "p"), "--evaluation.extractor", "no:thing"], "no:thing"),
    ):
        assert main(["compare", *three(models), *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_report_of_models_points_to_compare(models: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(models / "whole"), str(models / "chosen")]) == 2
    error = capsys.readouterr().err
    assert "chosen is a model" in error
    assert "`pelap compare MODEL…`" in error
    assert error.count("\n") == 1
    assert main(["report", str(models / "whole")]) == 2
    assert "pelap evaluate" in capsys.readouterr().err


def test_names_tell_folders_apart(tmp_path: Path):
    folders = [tmp_path / name for name in ("a/model", "b/model", "c/other")]
    for folder in folders:
        folder.mkdir(parents=True)
    assert labels_of(folders) == ["a/model", "b/model", "other"]
    assert labels_of(["owner/name", folders[2]]) == ["name", "other"]
    with pytest.raises(ConfigError, match="given twice"):
        labels_of([folders[0], folders[0]])
    with pytest.raises(ConfigError, match="Give MODEL"):
        open_subjects([])


def test_models_that_do_not_sample_are_refused(models: Path, tmp_path: Path):
    shutil.copytree(models / "chance", tmp_path / "bare")
    index = tmp_path / "bare" / "model_index.json"
    parts = json.loads(index.read_text())
    index.write_text(json.dumps({name: part for name, part in parts.items() if name != "unet"}))
    with pytest.raises(ModelError, match="bare has no denoiser"):
        open_subjects([models / "whole", tmp_path / "bare"])


@pytest.mark.usefixtures("no_page")
def test_a_gate_is_told_of(models: Path, tmp_path: Path):
    shutil.copytree(models / "whole", tmp_path / "gated")
    saved = tmp_path / "gated" / "config.json"
    found = json.loads(saved.read_text())
    found["gate"] |= {"kind": "top_k", "budget": 2}
    saved.write_text(json.dumps(found))
    result = tradeoff([tmp_path / "gated", models / "chance"], tmp_path / "page", SETTINGS)
    assert "gated was trained with a gate (top_k); here every channel is open." in result["notes"]


def test_both_modules_agree_on_the_name_of_the_distance():
    assert tradeoff_points.TO_UNPRUNED == TO_UNPRUNED
