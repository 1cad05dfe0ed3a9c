"""`pelap analyze`: any model in; analysis.json, figures and one page out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from pelap.analysis.analysis_record import Analysis, AnalysisSettings
from pelap.analysis.channel_analysis import analyze
from pelap.analysis.recommendation import Recommendation, recommend
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import write_whole
from pelap.core.errors import ConfigError
from pelap.core.records import from_json_dict, read_record, to_json_dict
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits

ANALYSIS_FILE = "analysis.json"


def analyze_model(
    model: LoadedModel, config: RunConfig, settings: AnalysisSettings
) -> dict[str, Any]:
    """Analyse a model on training pictures; several processes share them and return the same.

    Returns:
        What analysis.json holds: an `Analysis` as plain values, and `data`.

    Raises:
        ConfigError: If the model cannot take these pictures, or there are too few.
        DataError: If they cannot be read.
    """
    state = PartialState()
    model.check()
    pictures = load_splits(model, config).train
    system = model.measured_system(state.device or "cpu")
    try:
        found = analyze(system, pictures, settings, model.name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return to_json_dict(replace(found, data=describe_pictures(config)))


def check_wanted(model: LoadedModel, keep: int | None, max_psnr_drop: float | None) -> None:
    """Refuse an impossible recommendation before anything long begins.

    Raises:
        ConfigError: If both are given, or one is out of range.
    """
    if keep is not None and max_psnr_drop is not None:
        raise ConfigError("Give one of --keep and --max-psnr-drop.")
    if keep is not None and not 1 <= keep <= model.num_channels:
        raise ConfigError(f"--keep is {keep}: it must be from 1 to {model.num_channels}.")
    if max_psnr_drop is not None and not max_psnr_drop >= 0:
        raise ConfigError(f"--max-psnr-drop is {max_psnr_drop:g}: it must be at least 0.")


def write_results(
    result: dict[str, Any],
    output: Path,
    *,
    keep: int | None = None,
    max_psnr_drop: float | None = None,
) -> Recommendation | None:
    """Write analysis.json, figures and analysis.html; only the first process does.

    Args:
        result: From `analyze_model`.
        output: Folder.
        keep: Recommend so many channels.
        max_psnr_drop: Recommend as few as lose at most so many dB.

    Raises:
        ConfigError: If the recommendation that is asked for is impossible.
    """
    analysis = from_json_dict(Analysis, result, "the analysis")
    recommendation = None
    if keep is not None or max_psnr_drop is not None:
        try:
            recommendation = recommend(analysis, keep=keep, max_psnr_drop=max_psnr_drop)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if is_first_process():
        from pelap.report.analysis_page import write_analysis  # matplotlib takes a second

        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / ANALYSIS_FILE, (json.dumps(result, indent=1) + "\n").encode())
        write_analysis(analysis, recommendation, output)
    return recommendation


def is_first_process() -> bool:
    """Whether this is the process that writes and prints."""
    return PartialState().is_main_process


def read_analysis(path: Path) -> Analysis:
    """An analysis from its file, or from the folder that holds it.

    Raises:
        ConfigError: If it is missing or no analysis.
    """
    file = path / ANALYSIS_FILE if path.is_dir() else path
    try:
        return read_record(Analysis, file, ConfigError)
    except OSError as error:
        raise ConfigError(f"No analysis at {path}: `pelap analyze MODEL --output DIR`.") from error


def describe_analysis(analysis: Analysis, recommendation: Recommendation | None) -> str:
    """The channels as a table, best first, and what is recommended."""
    best = analysis.criteria[0]
    by_name = {one.name: one for one in analysis.criteria}
    ranking = by_name.get("elimination", best).ranking
    lines = [f"{'channel':>7} {'std':>8} {'KL':>8} {'R²':>6} {'ΔPSNR dB':>9} {'linear dB':>9}"]
    for channel in ranking:
        one = analysis.channels[channel]
        lines.append(
            f"{channel:7d} {one.std:8.3f} {one.kl:8.2f} {one.r2:6.2f} "
            f"{one.leave_one_out_db:9.2f} {one.leave_one_out_linear_db:9.2f}"
        )
    lines.append(
        f"all {analysis.num_channels}: {analysis.psnr_db:.2f} dB on {analysis.num_curve:,} pictures"
    )
    if recommendation is not None:
        kept = " ".join(map(str, recommendation.channels))
        lines += [f"keep {kept}", recommendation.reason]
    return "\n".join([*lines, *analysis.notes])
