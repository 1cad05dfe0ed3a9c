"""`pelap analyze`: which latent channels a model uses, and which to keep."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pelap.analysis.analysis_record import AnalysisSettings
from pelap.analysis.cost_record import Effort
from pelap.commands.verb_settings import (
    AnyFloat,
    AnyInt,
    AnyOutput,
    JsonSettings,
    ModelSettings,
    PromptSettings,
    Switch,
    fields_of,
)
from pelap.config.overrides import given_settings
from pelap.core.announcement import announced
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from pelap.commands.analyze_model import AnalysisPlan, AnalysisResult


@dataclass(frozen=True, kw_only=True)
class MeasuredOn:
    """How much an analysis measures, see `AnalysisSettings`."""

    num_pictures: AnyInt = AnalysisSettings.num_pictures
    """Pictures analysed."""
    num_curve: int = AnalysisSettings.num_curve
    """Pictures held apart for the curves."""
    num_search: int = AnalysisSettings.num_search
    """Pictures for the greedy search."""
    learned_steps: AnyInt = AnalysisSettings.learned_steps
    """Training steps of the importance predictor (200, none with another --effort than exact)."""
    effort: Effort = AnalysisSettings.effort
    """How much is decoded: exact decodes all that could be, the others far less."""
    seed: int = AnalysisSettings.seed
    """Of all that is drawn."""


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(ModelSettings, JsonSettings, MeasuredOn, PromptSettings):
    """What `pelap analyze` takes."""

    output: AnyOutput = None
    """Folder for JSON and page."""
    keep: AnyInt = None
    """Recommend so many channels."""
    max_psnr_drop: AnyFloat = None
    """Recommend the fewest within so many dB."""
    dry_run: Switch = False
    """Say how often the autoencoder would run, and stop."""


def run(settings: AnalyzeSettings) -> "AnalysisResult | AnalysisPlan":
    """Analyse the model and write analysis.json, the figures and the page; or only plan that."""
    if settings.output is None and not settings.dry_run:
        raise ConfigError("Give --output FOLDER, or --dry-run.")
    if settings.output is not None and settings.output.is_file():
        raise ConfigError(f"--output {settings.output} is a file: give a folder.")
    from pelap.core.output import locked

    with locked(None if settings.dry_run else settings.output):
        return _run(settings)


def _run(settings: AnalyzeSettings) -> "AnalysisResult | AnalysisPlan":
    measured = fields_of(MeasuredOn, settings)
    drawn = settings.prompt_pictures(bool(given_settings(settings.overrides)))
    with announced("Opening the model"):
        from pelap.commands.analyze_model import analysis_settings, analyze, plan_analysis
        from pelap.models.model_pictures import pictures_config

        analysis_settings(measured)  # refused before the model is opened
        model = settings.open()
    pictures = drawn or pictures_config(model, settings.overrides)
    if settings.dry_run:
        return plan_analysis(model, pictures, **measured)
    assert settings.output is not None
    wanted = {name: getattr(settings, name) for name in ("keep", "max_psnr_drop", "unconditional")}
    result = analyze(model, pictures, **wanted, **measured)
    result.save(settings.output)
    return result
