"""`pelap reproduce`: the paper's comparison in one resumable call, baseline and PeLAP-A."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pelap.commands.evaluate import evaluate
from pelap.commands.report import report
from pelap.commands.resume import resume
from pelap.commands.train import train
from pelap.commands.verb_settings import (
    Output,
    PresetSettings,
    Written,
    shown,
)
from pelap.config.presets import as_baseline
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError, RunError


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings(PresetSettings):
    """What `pelap reproduce` takes."""

    output: Output
    """Folder of the runs and the page."""
    lambdas: Annotated[tuple[float, ...], shown("FLOAT …")] = ()
    """Further λ to train."""


def run(settings: ReproduceSettings) -> Written:
    """Train, evaluate and report what is not done yet."""
    return reproduce(settings.run_config(), settings.output, settings.lambdas)


def reproduce(config: RunConfig, output: Path, lambdas: Sequence[float] = ()) -> Written:
    """Train, evaluate and report; what is done already is not done again.

    Args:
        config: A run with a gate; its baseline is derived from it.
        output: Folder that gets one run folder each, report.html and figures/.
        lambdas: Sparsity weights to train beside the config's own.

    Returns:
        Where the page is.

    Raises:
        ConfigError: If the config has no gate, or a λ is negative.
        RunError: If a run in `output` was made with other settings.
    """
    folders = []
    for name, run_config in _planned_runs(config, lambdas).items():
        folder = _trained(run_config, output / name)
        if not folder.evaluation_path.exists():
            evaluate(folder)
        folders.append(folder)
    return report(folders, output)


def _planned_runs(config: RunConfig, lambdas: Sequence[float]) -> dict[str, RunConfig]:
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
        short = f"{weight:g}"
        name = short if float(short) == weight else repr(weight)
        runs[f"lambda_{name}"] = replace(config, objective=objective)
    return runs


def _trained(config: RunConfig, path: Path) -> RunFolder:
    if not path.exists():
        return train(config, path)
    folder = open_run(path)
    if folder.config() != config:
        raise RunError(
            f"{path} was made with other settings: choose another --output, or remove that run."
        )
    from pelap.training.checkpoint import is_finished

    return folder if is_finished(folder) else resume(path)
