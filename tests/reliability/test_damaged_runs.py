"""A damaged checkpoint or line is named, and what is whole goes on."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pelap.cli import main
from pelap.config.overrides import apply_overrides
from pelap.config.presets import get_preset
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ModelError, RunError
from pelap.method.pipeline import load_pipeline
from pelap.training.checkpoint import last_checkpoint, list_checkpoints
from pelap.training.trainer import resume, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    words = ["--run.checkpoint-every", "2", "--run.max-steps", "6", "--run.log-every", "1"]
    config = apply_overrides(get_preset("tiny"), [*words, "--data.num-train", "128"])
    return train(config, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def run(whole: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(whole.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    run: RunFolder, whole: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
):
    last = list_checkpoints(run.checkpoints)[-1]
    flip_last_bit(last / name)
    resume(run.path)
    said = capsys.readouterr().err
    assert str(last) in said
    assert "going on from" in said
    assert run.metrics("train")[-1]["total_loss"] == whole.metrics("train")[-1]["total_loss"]
    assert len(run.metrics()) == len(whole.metrics())


def test_a_step_that_is_not_the_folders_is_damage(run: RunFolder):
    last = list_checkpoints(run.checkpoints)[-1]
    (last / "manifest.json").unlink()
    state = json.loads((last / "state.json").read_text())
    (last / "state.json").write_text(json.dumps(state | {"step": 1}))
    assert last_checkpoint(run.checkpoints) == list_checkpoints(run.checkpoints)[-2]


def test_without_a_whole_checkpoint_nothing_is_lost(run: RunFolder):
    for checkpoint in list_checkpoints(run.checkpoints):
        flip_last_bit(checkpoint / "model.safetensors")
    before = run.metrics_path.read_text()
    with pytest.raises(RunError, match="there is no older one that is whole"):
        resume(run.path)
    assert run.metrics_path.read_text() == before


def test_a_changed_config_is_named_and_no_checkpoint_to_be_removed(run: RunFolder):
    config = json.loads(run.config_path.read_text())
    config["network"]["denoiser_channels"] *= 2
    run.config_path.write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"does not fit the run's config\.json") as caught:
        resume(run.path)
    assert "remove" not in str(caught.value)


def test_a_broken_line_is_reported_and_the_others_are_kept(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
):
    lines = run.metrics_path.read_text().splitlines()
    lines[1] = "\x01" + lines[1][1:]
    run.metrics_path.write_text("\n".join(lines) + "\n" + lines[0][:9])
    assert len(run.metrics()) == len(lines) - 1
    assert "line 2 is broken" in capsys.readouterr().err
    resume(run.path)
    assert len(run.metrics_path.read_text().splitlines()) == len(lines) - 1


def test_a_pipe_in_a_runs_model_is_not_waited_for(run: RunFolder):
    weights = run.model / "denoiser" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ModelError, match="is neither a file nor a folder"):
        load_pipeline(run.model)


@pytest.mark.parametrize(
    ("part", "layer", "named"),
    [
        ("autoencoder", "to_mean.weight", "encoder"),
        ("autoencoder", "decoder.0.weight", "decoder"),
        ("denoiser", "out.weight", "denoiser"),
    ],
)
def test_weights_out_of_all_range_are_one_line(
    part: str,
    layer: str,
    named: str,
    run: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    path = run.model / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights[layer].fill_(3e38)  # finite, and what it makes of pictures is not
    save_file(weights, path)
    few = ["--num-pictures", "16", "--num-curve", "8", "--num-search", "8", "--effort", "fast"]
    assert main(["analyze", str(run.path), *few, "-o", str(tmp_path / "analysis")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pelap:")]
    assert f"What the {named} makes of these pictures is not finite" in line
