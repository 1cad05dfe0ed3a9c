"""Resume bit for bit, several processes like one, and what a run folder holds."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pelap.config.presets import as_baseline
from pelap.config.run_config import ObjectiveConfig, RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core import progress
from pelap.core.errors import ConfigError, RunError
from pelap.core.files import write_folder
from pelap.method.pipeline import load_pipeline
from pelap.method.step import StepOutput, uses_bf16
from pelap.training.checkpoint import is_finished, list_checkpoints
from pelap.training.schedules import cosine_learning_rate
from pelap.training.stage_objective import StageObjective
from pelap.training.trainer import resume, train
from two_processes import run_in_two_processes


def lines_without_speed(folder: RunFolder) -> list[dict]:
    return [
        {name: value for name, value in line.items() if name != "images_per_second"}
        for line in folder.metrics()
    ]


def test_run_folder_keeps_its_contract(tiny_run: RunFolder):
    assert is_finished(tiny_run)
    assert tiny_run.config().preset == "tiny"
    for line in tiny_run.metrics():
        assert {"split", "step", "epoch", "total_loss", "mask_mean"} <= set(line)
        assert len(line["mask_mean"]) == 4
    assert [line["step"] for line in tiny_run.metrics("train")] == list(range(1, 41))
    assert [line["epoch"] for line in tiny_run.metrics("validation")] == [1.0, 2.0]
    files = {path.name for path in tiny_run.path.rglob("*") if path.is_file()}
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in files)
    pipeline = load_pipeline(tiny_run.model)
    assert pipeline.importance is not None


def test_golden_loss_curve(tiny_run: RunFolder):
    golden = json.loads((Path(__file__).parents[1] / "golden_tiny.json").read_text())
    measured = [line["total_loss"] for line in tiny_run.metrics("train")[:20]]
    assert measured == pytest.approx(golden, rel=1e-3)


def test_validation_losses_fall(tiny_run: RunFolder):
    first, second = tiny_run.metrics("validation")
    for name in ("reconstruction_loss", "diffusion_loss", "total_loss"):
        assert second[name] < first[name]


def test_killed_and_resumed_run_has_the_same_metrics_bit_for_bit(
    tiny_config: RunConfig, tmp_path: Path
):
    config = replace(tiny_config, run=replace(tiny_config.run, epochs=2, checkpoint_every=3))
    whole = train(config, tmp_path / "whole")
    command = [sys.executable, "-m", "pelap", "train", "--config", str(whole.config_path)]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "cut")], stderr=subprocess.DEVNULL
    )
    cut = RunFolder(tmp_path / "cut")
    deadline = time.monotonic() + 120
    while not list_checkpoints(cut.checkpoints) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resume(cut.path)
    assert lines_without_speed(cut) == lines_without_speed(whole)
    for part in ("autoencoder", "denoiser", "importance"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        assert (cut.model / name).read_bytes() == (whole.model / name).read_bytes()


def test_resume_from_the_middle_with_moving_average(tiny_config: RunConfig, tmp_path: Path):
    config = replace(
        tiny_config,
        run=replace(tiny_config.run, checkpoint_every=3, keep_checkpoints=5),
        optimizer=replace(tiny_config.optimizer, ema_decay=0.9),
    )
    folder = train(config, tmp_path / "run")
    expected = lines_without_speed(folder)
    for checkpoint in list_checkpoints(folder.checkpoints)[1:]:
        checkpoint.rename(checkpoint.with_name(f"aside_{checkpoint.name}"))
    resume(folder.path)
    assert lines_without_speed(folder) == expected


def test_resume_before_the_first_checkpoint_starts_over(tiny_config: RunConfig, tmp_path: Path):
    folder = train(tiny_config, tmp_path / "run")
    expected = lines_without_speed(folder)
    (folder.checkpoints).rename(tmp_path / "aside")
    resume(folder.path)
    assert lines_without_speed(folder) == expected


@pytest.mark.parametrize("torn", [False, True])
def test_a_longer_run_that_was_killed_at_once_is_not_finished_and_goes_on(
    tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
):
    optimizer = replace(tiny_config.optimizer, schedule="trapezoid")
    config = replace(tiny_config, optimizer=optimizer)
    folder = train(config, tmp_path / "run")
    assert is_finished(folder)

    def kill(objective: StageObjective, step: int) -> StepOutput:
        raise KeyboardInterrupt

    longer = replace(config, run=replace(config.run, epochs=2))
    with monkeypatch.context() as patch:
        patch.setattr(StageObjective, "forward", kill)
        with pytest.raises(KeyboardInterrupt):
            resume(folder.path, longer)
    if torn:
        with folder.metrics_path.open("a") as metrics:
            metrics.write('{"split": "train", "st')
    assert not is_finished(folder)
    resume(folder.path)
    assert is_finished(folder)
    assert [line["epoch"] for line in folder.metrics("validation")] == [1.0, 2.0]


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is(
    tiny_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config = replace(tiny_config, run=replace(tiny_config.run, max_steps=3))
    train(config, tmp_path / "quick")
    assert "pictures/s" not in capsys.readouterr().err  # over in less than 30 s
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    train(config, tmp_path / "slow")
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if "pictures/s" in line]
    number = r"[\d,.]+"
    for step, line in enumerate(lines, 1):
        loss = rf"loss {number} rec {number} diff {number} mask {number} · " if step > 1 else ""
        end = rf"{loss}{number} pictures/s · 0:00:\d\d left"
        assert re.fullmatch(rf"slow · step {step} of 3 · {end}", line), line
    assert len(lines) == 3
    assert said.out == ""


def test_resuming_a_finished_run_changes_nothing(tiny_run: RunFolder):
    before = tiny_run.metrics_path.read_bytes()
    resume(tiny_run.path)
    assert tiny_run.metrics_path.read_bytes() == before


def test_two_processes_train_like_one_and_one_writes(tiny_config: RunConfig, tmp_path: Path):
    config = replace(tiny_config, data=replace(tiny_config.data, num_train=320))
    one = train(config, tmp_path / "one")
    run_in_two_processes("train", "--config", one.config_path, "--output", tmp_path / "two")
    two = RunFolder(tmp_path / "two")
    assert len(two.metrics("train")) == 20  # each line once: a single writer
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        for name in ("total_loss", "reconstruction_loss", "diffusion_loss", "kl_loss"):
            assert a[name] == pytest.approx(b[name], abs=1e-4), (name, a["step"])


def test_only_the_last_checkpoints_stay(tiny_config: RunConfig, tmp_path: Path):
    config = replace(tiny_config, run=replace(tiny_config.run, checkpoint_every=2))
    folder = train(config, tmp_path / "run")
    assert [p.name for p in list_checkpoints(folder.checkpoints)] == ["step_6", "step_8"]


def test_max_steps_ends_a_run_early(tiny_config: RunConfig, tmp_path: Path):
    config = replace(tiny_config, run=replace(tiny_config.run, max_steps=3))
    folder = train(config, tmp_path / "run")
    assert [line["step"] for line in folder.metrics("train")] == [1, 2, 3]
    assert folder.metrics("validation")[-1]["step"] == 3
    assert is_finished(folder)


def test_baseline_trains_without_predictor(tiny_config: RunConfig, tmp_path: Path):
    folder = train(as_baseline(tiny_config), tmp_path / "run")
    assert load_pipeline(folder.model).importance is None
    assert "sparsity_loss" not in folder.metrics()[0]
    assert folder.metrics()[0]["mask_mean"] == [1.0] * 4


def test_sparsity_alone_closes_the_mask(tiny_config: RunConfig, tmp_path: Path):
    config = replace(
        tiny_config,
        objective=ObjectiveConfig(0.0, 0.0, 0.0, 1.0),
        optimizer=replace(tiny_config.optimizer, learning_rate=0.1),
    )
    folder = train(config, tmp_path / "run")
    assert max(folder.metrics("validation")[-1]["mask_mean"]) < 0.5


def test_tensorboard_tracker_writes_events(tiny_config: RunConfig, tmp_path: Path):
    config = replace(tiny_config, run=replace(tiny_config.run, tracker="tensorboard", max_steps=2))
    folder = train(config, tmp_path / "run")
    assert list(folder.path.rglob("events.out.tfevents*"))


def test_a_tracker_that_is_not_here_is_refused_before_training(
    tiny_config: RunConfig, tmp_path: Path
):
    for tracker, says in (("wandb", "not installed"), ("pencil", "known are")):
        config = replace(tiny_config, run=replace(tiny_config.run, tracker=tracker))
        with pytest.raises(ConfigError, match=says):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_learning_rate_follows_half_a_cosine(tiny_config: RunConfig):
    config = tiny_config.optimizer
    assert cosine_learning_rate(0, 10, config) == pytest.approx(2e-4)
    assert cosine_learning_rate(5, 10, config) == pytest.approx((2e-4 + 1e-5) / 2)
    assert cosine_learning_rate(10, 10, config) == pytest.approx(1e-5)


def test_precision_is_taken_as_asked():
    assert uses_bf16("bf16", torch.device("cpu"))
    assert not uses_bf16("fp32", torch.device("cpu"))


def test_bf16_gives_the_losses_of_fp32_up_to_its_rounding(tiny_config: RunConfig, tmp_path: Path):
    def losses(precision: str) -> list[float]:
        loop = replace(tiny_config.run, precision=precision, max_steps=3)
        folder = train(replace(tiny_config, run=loop), tmp_path / precision)
        return [line["total_loss"] for line in folder.metrics("train")]

    bf16, fp32 = losses("bf16"), losses("fp32")
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=0.02)


def test_existing_output_is_refused_and_left_alone(tiny_config: RunConfig, tmp_path: Path):
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="exists already"):
        train(tiny_config, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_batch_larger_than_the_data_is_refused(tiny_config: RunConfig, tmp_path: Path):
    config = replace(tiny_config, data=replace(tiny_config.data, batch_size=500))
    with pytest.raises(ConfigError, match="batch-size is 500"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_divergence_is_named(tiny_config: RunConfig, tmp_path: Path):
    config = replace(tiny_config, optimizer=replace(tiny_config.optimizer, learning_rate=1e30))
    with pytest.raises(RunError, match="learning-rate"):
        train(config, tmp_path / "run")


def test_damaged_checkpoint_is_one_clear_error(tiny_config: RunConfig, tmp_path: Path):
    folder = train(tiny_config, tmp_path / "run")
    model = list_checkpoints(folder.checkpoints)[-1] / "model.safetensors"
    model.write_bytes(model.read_bytes()[:100])
    with pytest.raises(RunError, match="is damaged"):
        resume(folder.path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "folder"

    def write(path: Path) -> None:
        (path / "a").write_text("1")

    write_folder(target, write)

    def fail(path: Path) -> None:
        (path / "a").write_text("2")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(target, fail)
    assert (target / "a").read_text() == "1"
