"""`pelap analyze`: which latent channels a model uses, and which to keep."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pelap.analysis.analysis_record import Analysis, AnalysisSettings
from pelap.commands.verb_settings import (
    AnyFloat,
    AnyInt,
    JsonSettings,
    ModelSettings,
    fields_of,
)
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from pelap.analysis.recommendation import Recommendation
    from pelap.commands.analyze_model import AnalysisResult


@dataclass(frozen=True, kw_only=True)
class MeasuredOn:
    """How much an analysis measures, see `AnalysisSettings`."""

    num_pictures: AnyInt = AnalysisSettings.num_pictures
    """Pictures analysed."""
    num_curve: int = AnalysisSettings.num_curve
    """Pictures held apart for the curves."""
    num_search: int = AnalysisSettings.num_search
    """Pictures for the greedy search."""
    learned_steps: int = AnalysisSettings.learned_steps
    """Training steps of the importance predictor."""
    seed: int = AnalysisSettings.seed
    """Of all that is drawn."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(ModelSettings, JsonSettings, MeasuredOn):
    """What `pelap analyze` takes."""

    output: Path
    """Folder for JSON and page."""
    keep: AnyInt = None
    """Recommend so many channels."""
    max_psnr_drop: AnyFloat = None
    """Recommend the fewest within so many dB."""


def run(settings: AnalyzeSettings) -> "AnalysisResult":
    """Analyse the model and write analysis.json, the figures and the page."""
    if settings.output.is_file():
        raise ConfigError(f"--output {settings.output} is a file: give a folder.")
    measured = fields_of(MeasuredOn, settings)
    from pelap.commands.analyze_model import analysis_settings, analyze, check_wanted
    from pelap.models.model_pictures import pictures_config

    analysis_settings(measured)  # refused before the model is opened
    model = settings.open()
    check_wanted(model, settings.keep, settings.max_psnr_drop)
    result = analyze(
        model,
        pictures_config(model, settings.overrides),
        keep=settings.keep,
        max_psnr_drop=settings.max_psnr_drop,
        unconditional=settings.unconditional,
        **measured,
    )
    result.save(settings.output)
    return result


def describe(analysis: Analysis, recommendation: "Recommendation | None") -> str:
    """The channels as a table, best first, and what is recommended."""
    best = analysis.criteria[0]
    by_name = {criterion.name: criterion for criterion in analysis.criteria}
    ranking = by_name.get("elimination", best).ranking
    lines = [f"{'channel':>7} {'std':>8} {'KL':>8} {'R²':>6} {'ΔPSNR dB':>9} {'linear dB':>9}"]
    for number in ranking:
        channel = analysis.channels[number]
        lines.append(
            f"{number:7d} {channel.std:8.3f} {channel.kl:8.2f} {channel.r2:6.2f} "
            f"{channel.leave_one_out_db:9.2f} {channel.leave_one_out_linear_db:9.2f}"
        )
    lines.append(
        f"all {analysis.num_channels}: {analysis.psnr_db:.2f} dB on {analysis.num_curve:,} pictures"
    )
    if recommendation is not None:
        kept = " ".join(map(str, recommendation.channels))
        lines += [f"keep {kept}", recommendation.reason]
    return "\n".join([*lines, *analysis.notes])
