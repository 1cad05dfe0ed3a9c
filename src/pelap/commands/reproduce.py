"""The paper's comparison in one resumable call: baseline and PeLAP-A, evaluated and reported."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pelap.config.presets import as_baseline
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError, RunError
from pelap.measure.run_evaluation import evaluate_run
from pelap.report.run_page import write_report
from pelap.training.checkpoint import is_finished
from pelap.training.trainer import resume, train


def reproduce(config: RunConfig, output: Path, lambdas: Sequence[float] = ()) -> Path:
    """Train, evaluate and report; what is done already is not done again.

    Args:
        config: A run with a gate; its baseline is derived from it.
        output: Folder that gets one run folder each, report.html and figures/.
        lambdas: Sparsity weights to train beside the config's own.

    Returns:
        Path of the page.

    Raises:
        ConfigError: If the config has no gate, or a λ is negative.
        RunError: If a run in `output` was made with other settings.
    """
    folders = []
    for name, run_config in planned_runs(config, lambdas).items():
        folder = _trained(run_config, output / name)
        if not folder.evaluation_path.exists():
            evaluate_run(folder)
        folders.append(folder)
    return write_report(folders, output)


def planned_runs(config: RunConfig, lambdas: Sequence[float]) -> dict[str, RunConfig]:
    """Configs of all runs by folder name: baseline first, then λ in falling order of notice."""
    if config.gate.kind == "open":
        raise ConfigError(
            f"Preset {config.preset} has no gate: give the preset with one, e.g. paper."
        )
    own = config.objective.sparsity_weight
    runs = {"baseline": as_baseline(config)}
    for weight in dict.fromkeys([own, *lambdas]):
        if weight < 0:
            raise ConfigError(f"--lambdas has {weight}: it must be 0 or more.")
        objective = replace(config.objective, sparsity_weight=float(weight))
        runs[f"lambda_{weight:g}"] = replace(config, objective=objective)
    return runs


def _trained(config: RunConfig, path: Path) -> RunFolder:
    if not path.exists():
        return train(config, path)
    folder = open_run(path)
    if folder.config() != config:
        raise RunError(
            f"{path} was made with other settings: choose another --output, or remove that run."
        )
    return folder if is_finished(folder) else resume(path)
