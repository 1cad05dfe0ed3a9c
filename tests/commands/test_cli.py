"""The command line as people use it: one process a call, exit codes, one-line errors."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import pelap
from pelap.analysis.analysis_record import AnalysisSettings
from pelap.cli import VERBS, _parse, main
from pelap.commands.analyze import AnalyzeSettings, MeasuredOn
from pelap.commands.compare import CompareSettings
from pelap.commands.verb_settings import fields_of
from pelap.config.overrides import given_settings, split_overrides
from pelap.config.presets import tiny
from pelap.config.run_checks import as_option
from pelap.config.run_folder import RunFolder

SOURCE = Path(str(pelap.__file__)).parent

SMALL = ["--run.max-steps", "2", "--data.num-train", "64", "--data.num-test", "32"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake prints."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pelap: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_help_imports_no_torch():
    code = "import sys, pelap.cli\ntry: pelap.cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'tyro' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pelap", "--version"], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("pelap ")


def test_settings_of_a_run_may_stand_anywhere_among_options():
    words = ["--run.seed", "-3", "--output", "a.b", "tiny", "--data.resize", "--gate.kind=open"]
    config, own = split_overrides(words, tiny())
    assert own == ["--output", "a.b", "tiny"]
    assert (config.run.seed, config.data.resize, config.gate.kind) == (-3, True, "open")
    assert given_settings(words) == ["--run.seed", "--data.resize", "--gate.kind"]


def test_a_model_may_stand_before_or_after_options(
    capsys: pytest.CaptureFixture[str], tiny_run: RunFolder
):
    options = ["--json", "--network.latent-channels", "8"]
    assert main(["describe", str(tiny_run.path), *options]) == 0
    before = capsys.readouterr().out
    assert main(["describe", *options, str(tiny_run.path)]) == 0
    assert capsys.readouterr().out == before


def test_no_argparse_and_no_verb_without_a_file():
    assert not [path for path in SOURCE.rglob("*.py") if "import argparse" in path.read_text()]
    for verb, (name, _) in VERBS.items():
        module = importlib.import_module(f"pelap.commands.{verb.replace(' ', '_')}")
        assert is_dataclass(getattr(module, name))
        assert callable(module.run)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_tells_each_option_and_imports_no_torch(verb: str):
    words = [*verb.split(), "-h"]
    code = f"import sys, pelap.cli\ntry: pelap.cli.main({words})\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    kind = getattr(importlib.import_module(f"pelap.commands.{verb.replace(' ', '_')}"),
                   VERBS[verb][0])  # fmt: skip
    positional = {"model", "preset", "run_folder", "paths", "subject"}
    for field in fields(kind):
        if field.name not in {*positional, "overrides"}:
            assert as_option(field.name) in told.stdout
    assert "(default: None)" not in told.stdout
    assert "(default: False)" not in told.stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_what_is_missing_is_named_in_every_encoding(encoding: str):
    told = subprocess.run(
        [sys.executable, "-m", "pelap", "recover", "m"], check=False, capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert told.stderr.startswith(b"pelap: Give --steps INT and --output PATH; see")
    assert (told.returncode, told.stdout) == (2, b"")


def test_two_dashes_end_a_list():
    settings = _parse(CompareSettings, "compare", ["--batch-sizes", "1", "16", "--", "a", "b"])
    assert (settings.batch_sizes, settings.paths) == ((1, 16), (Path("a"), Path("b")))


def test_defaults_stand_once():
    settings = _parse(AnalyzeSettings, "analyze", ["model", "--output", "x"])
    assert AnalysisSettings(**fields_of(MeasuredOn, settings)) == AnalysisSettings()


def test_describe_prints_one_json_object(capsys: pytest.CaptureFixture[str]):
    assert main(["describe", "paper", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["num_parameters"]
    assert (counts["autoencoder"], counts["importance"], counts["denoiser"]) == (
        2_127_499,
        292,
        820_748,
    )


def test_describe_takes_overrides_and_runs(capsys: pytest.CaptureFixture[str], tiny_run: RunFolder):
    assert main(["describe", str(tiny_run.path), "--network.latent-channels", "8"]) == 0
    assert "8 × 4 × 4" in capsys.readouterr().out


def test_train_evaluate_sample_report(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run = tmp_path / "run"
    sparsity = ["--objective.sparsity-weight", "0.5"]
    assert main(["train", "tiny", "--output", str(run), *SMALL, *sparsity]) == 0
    assert RunFolder(run).config().objective.sparsity_weight == 0.5
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_pictures"] == 32
    assert main(["sample", str(run), "--output", str(tmp_path / "a.png"), "--steps", "2"]) == 0
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    again = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.json"), "--output", str(again)]) == 0
    assert RunFolder(again).config() == RunFolder(run).config()
    assert main(["resume", str(again)]) == 0


def test_settings_lists_every_field(capsys: pytest.CaptureFixture[str]):
    assert main(["settings", "tiny"]) == 0
    assert "--objective.sparsity-weight" in capsys.readouterr().out


def test_reproduce_goes_on_where_it_stopped(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    command = ["reproduce", "tiny", "--output", str(tmp_path), "--lambdas", "0", *SMALL]
    assert main(command) == 0
    runs = ["baseline", "lambda_0.01", "lambda_0"]
    before = {name: (tmp_path / name / "metrics.jsonl").stat().st_mtime_ns for name in runs}
    (tmp_path / "lambda_0" / "evaluation.json").unlink()
    (tmp_path / "report.html").unlink()
    assert main(command) == 0
    after = {name: (tmp_path / name / "metrics.jsonl").stat().st_mtime_ns for name in runs}
    assert before == after
    assert (tmp_path / "lambda_0" / "evaluation.json").exists()
    assert (tmp_path / "report.html").exists()
    capsys.readouterr()
    line = fails(capsys, *command, "--run.seed", "1")
    assert "other settings" in line


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["train", "papper", "--output", "{tmp}/run"], "Did you mean paper"),
        (["train", "tiny", "--output", "{tmp}/run", "--run.max-stepz", "3"], "--run.max-steps?"),
        (["train", "tiny", "--output", "{tmp}/run", "--run.max-steps", "abc"], "--run.max-steps"),
        (["train", "tiny", "--output", "{tmp}/run", "--data.source", "web"], "photos"),
        (["train", "tiny", "--output", "{tmp}/run", "--bogus"], "--bogus"),
        (["train", "tiny"], "--output"),
        (["train", "--output", "{tmp}/run"], "PRESET"),
        (["train", "tiny", "--output", "{tmp}"], "exists already"),
        (["train", "--config", "{tmp}/no.json", "--output", "{tmp}/run"], "no.json"),
        (["train", "tiny", "--output", "{tmp}/run", "--data.size", "13"], "--data.size is 13"),
        (["train", "tiny", "--output", "{tmp}/run", "--data.source", "folder"], "--data.path"),
        (["train", "tiny", "--output", "{tmp}/run", "--data.source", "folder", "--data.path",
          "{tmp}/none"], "none"),
        (["train", "tiny", "--output", "/dev/null/run", "--run.max-steps", "1"], "/dev/null"),
        (["train", "tiny", "--output", "{tmp}/run", "--run.autoencoder", "{tmp}/nowhere",
          "--run.denoiser-epochs", "1"], "give a run"),
        (["resume", "{tmp}/nowhere"], "nowhere"),
        (["resume", "{tmp}"], "not a run folder"),
        (["evaluate", "{tmp}/nowhere"], "nowhere"),
        (["report", "{tmp}/nowhere"], "nowhere"),
        (["describe", "nothing"], "Unknown preset"),
        (["sample", "{tmp}", "--output", "x.png", "--run.seed", "1"], "takes no setting"),
        (["reproduce", "paper_baseline", "--output", "{tmp}/x"], "has no gate"),
        (["reproduce", "tiny", "--output", "{tmp}/x", "--lambdas", "-1"], "0 or more"),
        (["bench", "train", "tiny", "--rounds", "0"], "--rounds"),
        (["bench", "train", "tiny", "--round", "1"], "Did you mean --rounds"),
        (["prun", "model"], "Did you mean prune"),
        (["train", "tiny", "--output", "{tmp}/run", "--preset", "demo", "--run.seed", "1"],
         "Unknown setting --preset"),
        (["train", "tiny", "--output", "{tmp}/run", "--run.on-collapse", "x"], "one of stop, warn"),
        (["train", "tiny", "--output", "{tmp}/run", "--run.seed", "-1"], "--run.seed is -1"),
        (["prune", "m", "--fill", "x"], "--fill is 'x': it must be one of linear, mean, zero;"),
        (["prune", "m", "--denoiser-macs", "half"], "--denoiser-macs is 'half': it must be FLOAT;"),
        (["prune", "m", "--keep"], "--keep lacks its value;"),
        (["prune", "m", "another", "--keep", "2"], "another"),
        (["recover", "m"], "Give --steps INT and --output PATH;"),
        (["recover", "m", "--steps", "3", "-o"], ": --output lacks its value;"),
        (["export", "-o", "x"], "Give MODEL;"),
        (["bench", "train", "tiny", "--rounds", "x"], "--rounds is 'x': it must be INT;"),
        (["report"], "RUN"),
        ([], "VERB"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], match: str
):
    line = fails(capsys, *[argument.format(tmp=tmp_path) for argument in arguments])
    assert match in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "pelap: No space left on device.\n"),
        (OSError(13, "Permission denied", "/x/y"), "pelap: /x/y: Permission denied.\n"),
        (OSError("two\nlines"), "pelap: two lines\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: OSError, line: str
):
    def refuse(_words: list[str]) -> int:
        raise error

    monkeypatch.setattr("pelap.cli._main", refuse)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == line
    monkeypatch.setenv("PELAP_TRACEBACK", "1")
    with pytest.raises(OSError, match=r"two|Errno"):
        main(["train"])


def test_output_that_nobody_reads_ends_quietly(tiny_run: RunFolder):
    command = f"set -o pipefail; {sys.executable} -m pelap settings paper | head -1 | grep -q usage"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_a_run_is_evaluated_with_its_own_networks(
    capsys: pytest.CaptureFixture[str], tiny_run: RunFolder
):
    before = sorted(tiny_run.path.iterdir())
    line = fails(capsys, "evaluate", str(tiny_run.path), "--gate.kind", "open")
    assert "--gate.kind cannot be changed here" in line
    assert sorted(tiny_run.path.iterdir()) == before


def test_bench_compares_the_naive_step_with_ours(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "train", "tiny", "--rounds", "1", "--json", *SMALL]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ratio"] == pytest.approx(result["ratio_min"])
    assert 0 < result["share_of_convolution_rate"] < 1


@pytest.mark.parametrize("kind", [np.linalg.LinAlgError, torch.linalg.LinAlgError])
def test_linear_algebra_that_fails_is_one_line(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(_: object) -> None:
        raise kind("it did not\nconverge")

    monkeypatch.setattr("pelap.commands.describe.run", fail)
    assert main(["describe", "paper"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pelap: ")
    assert line.endswith("it did not converge")
