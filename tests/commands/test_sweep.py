"""Grids of trainings: the plan, what a killed sweep repeats, and what a failed trial leaves."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pelap.cli import main
from pelap.commands.sweep import GridAxis, parse_axis, plan_trials
from pelap.commands.sweep_table import SweepResult, summarise, summary
from pelap.commands.sweep_trials import Processes, sweep
from pelap.config.overrides import apply_overrides
from pelap.config.presets import tiny
from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError, RunError
from pelap.pages.sweep_figure import draw_sweep
from pelap.pages.sweep_record import GridPoint, Spread, TrialResult

SMALL = [
    "--run.max-steps", "2", "--run.epochs", "1", "--data.num-train", "32", "--data.num-test", "16",
    "--evaluation.num-samples", "2", "--evaluation.num-steps", "2",
]  # fmt: skip


class InProcess(Processes):
    """Runs the same commands here: a process spends seconds on importing torch."""

    def __init__(self):
        super().__init__(1)
        self.commands: list[str] = []

    def run(self, command: Sequence[str], log: Path) -> int:
        self.commands.append(command[0])
        with log.open("a") as said, contextlib.redirect_stderr(said):  # noqa: SIM117
            with contextlib.redirect_stdout(said):
                return main(command)


@pytest.fixture
def small() -> RunConfig:
    return apply_overrides(tiny(), SMALL)


def written(folder: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_an_axis_is_read_as_written():
    axis = parse_axis("objective.sparsity-weight=0, 0.01")
    assert axis == GridAxis("objective.sparsity_weight", ("0", "0.01"))
    assert parse_axis("--gate.kind=open,sigmoid").name == "gate.kind"


@pytest.mark.parametrize("text", ["objective", "seed=1", "gate.budget="])
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
    ("axes", "names"),
    [
        (["run.seed=1,2"], ["seed=1", "seed=2"]),
        (["evaluation.seed=1"], ["evaluation.seed=1-seed=42"]),
        (["data.batch_size=1", "evaluation.batch_size=2"],
         ["data.batch_size=1-evaluation.batch_size=2-seed=42"]),
        (["data.path=a b/ü,c"], ["path=a_b__-seed=42", "path=c-seed=42"]),
        (["gate.budget=None,2"], ["budget=None-seed=42", "budget=2-seed=42"]),
    ],
)  # fmt: skip
def test_names_of_trials_are_readable_and_safe(axes: list[str], names: list[str]):
    trials = plan_trials(tiny(), [parse_axis(axis) for axis in axes], 1)
    assert [trial.name for trial in trials] == names


def test_a_switch_can_be_swept():
    trials = plan_trials(tiny(), [parse_axis("gate.adaptive=true,False")], 1)
    assert [trial.config.gate.adaptive for trial in trials] == [True, False]


@pytest.mark.parametrize(
    ("axis", "options", "complaint"),
    [
        ("gate.knd=open", [], "Did you mean"),
        ("gate.kind=shut", [], "kind"),
        ("gate.budget=2,99", [], "--gate.budget is 99"),
        ("gate.adaptive=yes", [], "true or false"),
        ("gate.budget=1,1", [], "'1' and '1' train the same"),
        ("objective.sparsity_weight=0.01,1e-2", [], "'0.01' and '1e-2' train the same"),
        ("data.path=a/b,a_b", [], "both need a folder"),
        ("run.seed=1,2", ["--seeds", "2"], "both vary the seed"),
        ("run.epochs=1", ["--seeds", "0"], "--seeds is 0"),
        ("run.epochs=1", ["--jobs", "0"], "--jobs is 0"),
        ("run.epochs=1", ["--metrics", "pnsr"], "Did you mean psnr"),
    ],
)
def test_a_bad_plan_is_one_line_and_writes_nothing(
    axis: str,
    options: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    command = ["sweep", "tiny", "--grid", axis, *options, "--output", str(tmp_path / "sweep")]
    assert main(command) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert complaint in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("axis", ["run.epochs=1", "objective.sparsity_weight=0"])
def test_an_output_that_is_no_folder_is_refused(axis: str, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="not a folder"):
        sweep(tiny(), [parse_axis(axis)], 1, tmp_path / "file")


def test_a_trial_with_other_settings_is_refused_before_anything_starts(tmp_path: Path):
    trial = tmp_path / "sparsity_weight=0-seed=42"
    trial.mkdir()
    (trial / "config.json").write_text(json.dumps(asdict(tiny())))
    processes = InProcess()
    with pytest.raises(RunError, match="sparsity_weight=0-seed=42 was made with other settings"):
        sweep(tiny(), [parse_axis("objective.sparsity_weight=1,0")], 1, tmp_path,
              processes=processes)  # fmt: skip
    assert processes.commands == []


def test_a_sweep_writes_what_it_measured_and_repeats_nothing(
    small: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    grid = [parse_axis("objective.sparsity_weight=0,0.1")]
    result = sweep(small, grid, 2, tmp_path, processes=InProcess())
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content == result.as_dict()
    assert (content["grid"], content["seeds"]) == (
        {"objective.sparsity_weight": ["0", "0.1"]},
        [42, 43],
    )
    for point in content["points"]:
        losses = [
            json.loads((tmp_path / trial["name"] / "evaluation.json").read_text())["diffusion_loss"]
            for trial in content["trials"]
            if trial["settings"] == point["settings"]
        ]
        found = point["figures"]["diffusion_loss"]
        assert found["n"] == len(losses) == 2
        assert found["mean"] == pytest.approx(np.mean(losses))
        assert found["std"] == pytest.approx(np.std(losses, ddof=1))
        assert sum(point["verdicts"].values()) == 2
    assert (tmp_path / "sweep.md").read_text() == result.describe()
    assert (tmp_path / "figures" / "sweep.png").stat().st_size > 10_000

    capsys.readouterr()
    command = ["sweep", "tiny", "--grid", "objective.sparsity_weight=0,0.1", "--seeds", "2"]
    assert main([*command, "--output", str(tmp_path), *SMALL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content

    again = InProcess()
    (tmp_path / "sparsity_weight=0-seed=43" / "evaluation.json").unlink()
    assert sweep(small, grid, 2, tmp_path, processes=again) == result
    assert again.commands == ["evaluate"]


def test_metrics_asked_for_later_are_measured_without_training(small: RunConfig, tmp_path: Path):
    processes = InProcess()
    sweep(small, [], 1, tmp_path, processes=processes)
    result = sweep(small, [], 1, tmp_path, metrics=["psnr"], processes=processes)
    assert processes.commands == ["train", "evaluate", "evaluate"]
    assert result.points[0].figures["psnr_db"].n == 1
    more = sweep(small, [], 1, tmp_path, metrics=["psnr", "ssim"], processes=processes)
    assert processes.commands[3:] == ["evaluate"]
    assert more.points[0].figures["ssim"].n == 1


def test_an_unusable_extractor_is_refused_before_anything_is_trained(
    small: RunConfig, tmp_path: Path
):
    config = replace(small, evaluation=replace(small.evaluation, extractor="no.such:factory"))
    with pytest.raises(ConfigError, match="factory"):
        sweep(config, [], 1, tmp_path / "sweep", metrics=["fd"], processes=InProcess())
    assert not (tmp_path / "sweep").exists()


def test_a_trial_that_collapsed_and_was_stopped_stays_so(small: RunConfig, tmp_path: Path):
    stop = replace(small, run=replace(small.run, on_collapse="stop"))
    grid = [parse_axis("gate.initial_score=-6,3")]
    first = sweep(stop, grid, 1, tmp_path, processes=InProcess())
    assert len(first.failed) == 1
    assert "Stopped at step" in str(first.failed[0].error)
    again = InProcess()
    assert sweep(stop, grid, 1, tmp_path, processes=again) == first
    assert again.commands == ["resume"]


def test_a_failed_trial_is_listed_and_the_rest_goes_on(small: RunConfig, tmp_path: Path):
    grid = [parse_axis("optimizer.learning_rate=1e30,1e-4")]
    result = sweep(small, grid, 1, tmp_path, processes=InProcess())
    (failed,) = result.failed
    assert failed.settings == {"optimizer.learning_rate": "1e30"}
    assert failed.error is not None
    assert "lower --optimizer.learning-rate" in failed.error
    bad, good = result.points
    assert good.figures["diffusion_loss"].n == 1
    assert bad.figures == {}
    assert f"Failed: {failed.name}: pelap: The loss is" in (tmp_path / "sweep.md").read_text()


def start_sweep(output: Path) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "pelap", "sweep", "tiny", "--grid", "objective.sparsity_weight=0,0.1",
        "--output", str(output), *SMALL,
    ]  # fmt: skip
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed_interrupts
    )


def heed_interrupts() -> None:
    """A job in the background of a script is born deaf to them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_in_the_middle_it_repeats_nothing_and_ends_with_the_same_table(
    small: RunConfig, tmp_path: Path
):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = start_sweep(cut)
    first = cut / "sparsity_weight=0-seed=42"
    wait_until((first / "evaluation.json").exists, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (cut / "sweep.json").exists()
    before = written(first)
    grid = [parse_axis("objective.sparsity_weight=0,0.1")]
    sweep(small, grid, 1, cut, processes=InProcess())
    assert written(first) == before
    sweep(small, grid, 1, whole, processes=InProcess())
    for name in ("sweep.md", "sweep.json", "figures/sweep.png"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_trial_that_outlives_a_killed_sweep_is_waited_for(small: RunConfig, tmp_path: Path):
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = start_sweep(cut)
    wait_until((cut / "sparsity_weight=0-seed=42" / ".lock").exists, process)
    process.kill()
    process.communicate()
    grid = [parse_axis("objective.sparsity_weight=0,0.1")]
    result = sweep(small, grid, 1, cut, processes=InProcess())
    assert not result.failed
    sweep(small, grid, 1, whole, processes=InProcess())
    for trial in result.trials:
        metrics = [folder / trial.name / "metrics.jsonl" for folder in (cut, whole)]
        steps = [[json.loads(x)["step"] for x in file.read_text().splitlines()] for file in metrics]
        assert steps[0] == steps[1]
    assert (cut / "sweep.md").read_bytes() == (whole / "sweep.md").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_trials(number: signal.Signals, tmp_path: Path):
    process = start_sweep(tmp_path)
    wait_until((tmp_path / "logs" / "sparsity_weight=0-seed=42.txt").exists, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.decode().splitlines()[-1].startswith("pelap: interrupted")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not (tmp_path / "sparsity_weight=0-seed=42" / "evaluation.json").exists()


def test_what_is_stopped_starts_nothing_more(tmp_path: Path):
    processes = Processes(1)
    processes.stop()
    assert processes.run(["--version"], tmp_path / "log.txt") == 130
    assert (tmp_path / "log.txt").read_text() == ""


def test_statistics_are_numpys():
    values = [1.0, 2.0, 4.0]
    found = summary(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert summary([3.0]) == Spread(3.0, None, 1)


def test_what_is_not_finite_has_no_mean_and_is_null_in_json():
    trials = [
        TrialResult(f"{seed}", {"gate.budget": "4"}, seed, "done", None, "healthy", {"loss": loss})
        for seed, loss in ((1, 1.0), (2, math.inf), (3, math.nan))
    ]
    result = summarise("tiny", {"gate.budget": ["4"]}, trials)
    assert "| 4 | 3 | – | 3 healthy |" in result.describe()
    content = result.as_dict()
    json.dumps(content, allow_nan=False)
    assert content["points"][0]["figures"]["loss"] == {"mean": None, "std": None, "n": 3}
    assert [trial["figures"]["loss"] for trial in content["trials"]] == [1.0, None, None]
    assert draw_sweep(result.grid, result.trials, result.points).png


def test_a_metric_that_some_trials_lack_is_summed_up_over_the_others():
    trials = [
        TrialResult("a", {}, 1, "done", None, "healthy", {"loss": 1.0}),
        TrialResult("b", {}, 2, "done", None, "healthy", {"loss": 2.0, "ssim": 0.5}),
    ]
    (point,) = summarise("tiny", {}, trials).points
    assert (point.figures["loss"].n, point.figures["ssim"].n) == (2, 1)


def test_the_table_says_mean_and_deviation():
    points = [
        GridPoint(
            {"gate.budget": "4"},
            {"healthy": 2, "collapsed": 1},
            {"psnr": Spread(24.123456, 0.1234, 3)},
        )
    ]
    text = SweepResult("tiny", {"gate.budget": ["4"]}, [1, 2, 3], [], points).describe()
    assert text.splitlines()[-1] == "| 4 | 3 | 24.12 ± 0.12 | 2 healthy, 1 collapsed |"
