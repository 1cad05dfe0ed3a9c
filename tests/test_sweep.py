"""Grids of trainings: the plan, what a killed sweep repeats, and what a failed trial leaves."""

import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pelap.config import RunConfig
from pelap.errors import ConfigError, RunError
from pelap.presets import tiny
from pelap.sweep import GridAxis, SweepResult, parse_axis, plan_trials, summary, sweep, table

SMALL = [
    "--run.max-steps", "2", "--run.epochs", "1", "--data.num-train", "32", "--data.num-test", "16",
    "--evaluation.num-samples", "2", "--evaluation.num-steps", "2",
]  # fmt: skip


@pytest.fixture
def small(tiny_config: RunConfig) -> RunConfig:
    return replace(
        tiny_config,
        data=replace(tiny_config.data, num_train=32, num_test=16),
        run=replace(tiny_config.run, max_steps=2, epochs=1),
        evaluation=replace(tiny_config.evaluation, num_samples=2, num_steps=2),
    )


def test_an_axis_is_read_as_written():
    axis = parse_axis("objective.sparsity-weight=0, 0.01")
    assert axis == GridAxis("objective.sparsity_weight", ("0", "0.01"))
    assert parse_axis("--gate.kind=open,sigmoid").name == "gate.kind"


@pytest.mark.parametrize("text", ["objective", "seed=1", "gate.budget=", "gate.budget=1,1"])
def test_a_broken_axis_is_refused(text: str):
    with pytest.raises(ConfigError, match="--grid"):
        parse_axis(text)


def test_the_plan_is_the_cross_product_with_seeds_slowest():
    grid = [parse_axis("gate.kind=open,sigmoid"), parse_axis("objective.sparsity_weight=0,0.1")]
    trials = plan_trials(tiny(), grid, 2)
    assert [trial.name for trial in trials[:4]] == [
        "kind=open-sparsity_weight=0-seed=42",
        "kind=open-sparsity_weight=0.1-seed=42",
        "kind=sigmoid-sparsity_weight=0-seed=42",
        "kind=sigmoid-sparsity_weight=0.1-seed=42",
    ]
    assert {trial.config.run.seed for trial in trials[4:]} == {43}
    assert trials[3].config.objective.sparsity_weight == 0.1
    assert trials[3].config.gate.kind == "sigmoid"
    assert len({trial.name for trial in trials}) == 8


@pytest.mark.parametrize(
    ("axis", "seeds", "complaint"),
    [
        ("gate.knd=open", 1, "Did you mean"),
        ("gate.kind=shut", 1, "kind"),
        ("gate.budget=99", 1, "--gate.budget is 99"),
        ("run.seed=1,2", 2, "both vary the seed"),
        ("run.epochs=1", 0, "--seeds is 0"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_written(
    axis: str, seeds: int, complaint: str, tmp_path: Path
):
    with pytest.raises(ConfigError, match=complaint):
        sweep(tiny(), [parse_axis(axis)], seeds, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_means_and_deviations_are_numpys():
    values = [1.0, 2.0, 4.0]
    found = summary(values)
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert found["std"] == pytest.approx(1.5275252316519468)
    assert summary([3.0]) == {"mean": 3.0, "std": None, "n": 1}


def run_sweep(output: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "pelap", "sweep", "tiny", "--grid", "objective.sparsity_weight=0,0.1",
        "--seeds", "1", "--output", str(output), *more, *SMALL,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def test_killed_in_the_middle_it_repeats_nothing_and_ends_with_the_same_table(tmp_path: Path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = run_sweep(cut)
    first = cut / "sparsity_weight=0-seed=42"
    deadline = time.monotonic() + 180
    while not (first / "evaluation.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (cut / "sweep.json").exists()
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    again = run_sweep(cut)
    assert again.wait() == 0
    again.communicate()
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()} == before
    straight = run_sweep(whole)
    output, _ = straight.communicate()
    assert straight.returncode == 0
    assert (cut / "sweep.md").read_text() == (whole / "sweep.md").read_text()
    assert (whole / "sweep.md").read_text() == output.decode()[:-1]
    assert (cut / "sweep.json").read_text() == (whole / "sweep.json").read_text()
    assert (cut / "figures" / "sweep.png").stat().st_size > 10_000


def test_a_failed_trial_is_listed_and_the_rest_goes_on(small: RunConfig, tmp_path: Path):
    grid = [parse_axis("optimizer.learning_rate=1e-4,1e30")]
    result = sweep(small, grid, 1, tmp_path)
    (failed,) = result.failed
    assert failed.settings == {"optimizer.learning_rate": "1e30"}
    assert failed.error is not None
    assert "lower --optimizer.learning-rate" in failed.error
    good, bad = result.points
    assert good["figures"]["diffusion_loss"]["n"] == 1
    assert bad["figures"] == {}
    assert f"Failed: {failed.name}" in (tmp_path / "sweep.md").read_text()


def test_a_trial_with_other_settings_is_refused(small: RunConfig, tmp_path: Path):
    from pelap.training import train

    other = replace(small, run=replace(small.run, log_every=2))
    train(other, tmp_path / "sparsity_weight=0-seed=42")
    with pytest.raises(RunError, match="made with other settings"):
        sweep(small, [parse_axis("objective.sparsity_weight=0")], 1, tmp_path)


def test_the_table_says_mean_and_deviation():
    points = [
        {
            "settings": {"gate.budget": "4"},
            "verdicts": {"healthy": 2, "collapsed": 1},
            "figures": {"psnr": {"mean": 24.123456, "std": 0.1234, "n": 3}},
        }
    ]
    text = table(SweepResult("tiny", {"gate.budget": ["4"]}, [], points))
    assert text.splitlines()[-1] == "| 4 | 3 | 24.12 ± 0.12 | 2 healthy, 1 collapsed |"
