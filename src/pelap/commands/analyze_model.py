"""Any model in; which of its latent channels matter out, as a record, JSON, figures and a page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pelap.analysis import channel_analysis
from pelap.analysis.analysis_record import Analysis, AnalysisSettings
from pelap.analysis.cost_record import AnalysisCost
from pelap.analysis.picture_parts import pictures_of_pass
from pelap.analysis.recommendation import Recommendation, recommend
from pelap.analysis.rotation_analysis import analyze_rotation
from pelap.commands.any_model import AnyModel, AnyPictures, as_model, as_pictures, told_nothing
from pelap.commands.verb_settings import Result
from pelap.config.run_config import RunConfig
from pelap.core.devices import process_state, torch_device
from pelap.core.digests import digest
from pelap.core.errors import ConfigError
from pelap.core.files import write_json
from pelap.core.json_values import JsonObject
from pelap.core.output import locked
from pelap.core.records import read_record, to_json_dict
from pelap.method.latent_map import Rotation
from pelap.models.conditions import NONE, describe_untold, find_conditions
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits

ANALYSIS_FILE = "analysis.json"


@dataclass(frozen=True)
class AnalysisResult(Result):
    """An analysis, and what it recommends."""

    analysis: Analysis
    data: str
    """Which pictures, in words."""
    recommendation: Recommendation | None = None
    """Which channels to keep; None where nothing was asked for."""

    def describe(self) -> str:
        """The channels as a table, best first, and what is recommended."""
        analysis, recommendation = self.analysis, self.recommendation
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
        whole = f"{analysis.psnr_db:.2f} dB on {analysis.num_curve:,} pictures"
        lines.append(f"all {analysis.num_channels}: {whole}")
        if recommendation is not None:
            kept = " ".join(map(str, recommendation.channels))
            lines += [f"keep {kept}", recommendation.reason]
        return "\n".join([*lines, *analysis.notes, *self._cost()])

    def _cost(self) -> list[str]:
        """What the analysis cost, a sentence, where it was counted."""
        analysis = self.analysis
        return [] if analysis.cost is None else [f"Effort {analysis.effort}: {analysis.cost.say()}"]

    def as_dict(self) -> JsonObject:
        """What analysis.json holds."""
        return to_json_dict(replace(self.analysis, data=self.data))

    def figure(self) -> bytes | None:
        """The first figure of the page."""
        from pelap.pages.analysis_page import draw_cards  # matplotlib takes a second

        return draw_cards(self.analysis, self.recommendation)[0].image.png

    def save(self, folder: str | Path) -> None:
        """Write analysis.json, figures and analysis.html; only the first process does."""
        if not process_state().is_main_process:
            return
        from pelap.pages.analysis_page import write_analysis

        folder = Path(folder)
        with locked(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / ANALYSIS_FILE, self.as_dict())
            write_analysis(self.analysis, self.recommendation, folder)


def analyze(
    model: AnyModel,
    pictures: AnyPictures = None,
    *,
    keep: int | None = None,
    max_psnr_drop: float | None = None,
    unconditional: bool = False,
    **settings: Any,
) -> AnalysisResult:
    """Find which latent channels a model uses; several processes share the pictures.

        analysis = pelap.analyze(model, pelap.pictures("photos", size=16), num_pictures=64)
        analysis.analysis.channels[0].std

    Args:
        model: An autoencoder, with its denoiser where it has one; left as it is.
        pictures: Training pictures; a run's own by default.
        keep: Recommend so many channels.
        max_psnr_drop: Recommend the fewest that lose at most so many dB.
        unconditional: Run a denoiser that wants text or a class on an empty prompt, or on none.
        **settings: Fields of `AnalysisSettings`.

    Returns:
        Statistics of each channel (of latents as the denoiser sees them), rankings by several
        criteria and their curves (PSNR in dB by number of kept channels).

    Raises:
        ConfigError: If the model cannot take these pictures, there are too few, a setting cannot
            be used, or the recommendation is impossible.
        ModelError: If a class is not supported.
        DataError: If pictures cannot be read.
    """
    model = as_model(model)
    chosen = analysis_settings(settings)
    if keep is not None and max_psnr_drop is not None:
        raise ConfigError("Give one of --keep and --max-psnr-drop.")
    if keep is not None and not 1 <= keep <= model.num_channels:
        raise ConfigError(f"--keep is {keep}: it must be from 1 to {model.num_channels}.")
    if max_psnr_drop is not None and not max_psnr_drop >= 0:
        raise ConfigError(f"--max-psnr-drop is {max_psnr_drop:g}: it must be at least 0.")
    config = as_pictures(model, pictures)
    if unconditional:
        model = told_nothing(model, config)
    analysis = analyze_model(model, config, chosen)
    recommendation = None
    if keep is not None or max_psnr_drop is not None:
        try:
            recommendation = recommend(analysis, keep=keep, max_psnr_drop=max_psnr_drop)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return AnalysisResult(analysis, analysis.data or "", recommendation)


@dataclass(frozen=True)
class AnalysisPlan(Result):
    """How often an analysis would run the autoencoder, at most."""

    cost: AnalysisCost
    effort: str

    def describe(self) -> str:
        """The stages as a table."""
        return f"{self.cost.describe()}\nAt most, with effort {self.effort}."


def plan_analysis(model: AnyModel, pictures: AnyPictures = None, **settings: Any) -> AnalysisPlan:
    """What `analyze` would cost; see there for arguments and errors. One picture is encoded."""
    model = as_model(model)
    chosen = analysis_settings(settings)
    model.check()
    system = model.measured_system(torch_device())
    splits = load_splits(model, as_pictures(model, pictures))
    try:
        cost = channel_analysis.plan_analysis(system, splits.train, chosen)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return AnalysisPlan(cost, chosen.effort)


def analysis_settings(settings: JsonObject) -> AnalysisSettings:
    """The settings of an analysis.

    Raises:
        ConfigError: If a value is out of range.
    """
    try:
        return AnalysisSettings(**settings)
    except ValueError as error:
        raise ConfigError(f"{error}") from error


def analyze_model(
    model: LoadedModel,
    config: RunConfig,
    settings: AnalysisSettings,
    rotation: tuple[Rotation, int] | None = None,
) -> Analysis:
    """Analyse a model on training pictures; several processes share them and return the same.

    With a rotation and how many directions it keeps, only that is measured.

    Raises:
        ConfigError: If the model cannot take these pictures, or there are too few.
        DataError: If they cannot be read.
    """
    device = torch_device()
    model.check()
    splits = load_splits(model, config)
    try:
        if rotation is not None:
            system = model.measured_system(device)
            return analyze_rotation(system, splits.train, settings, model.name, *rotation)
        untold = describe_untold(model, splits)
        seen = pictures_of_pass(len(splits.train), settings)
        model, told = find_conditions(model, splits, config.data.size, train=seen, test=NONE)
        analysis = channel_analysis.analyze(
            model.measured_system(device), splits.train, settings, model.name, told and told[0]
        )
        notes = [*analysis.notes, f"{untold}, or --unconditional."] if untold else analysis.notes
        said = describe_pictures(config, splits)
        found = digest(model.autoencoder)
        return replace(analysis, notes=notes, model_digest=found, data=said)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def read_analysis(path: Path) -> Analysis:
    """An analysis from its file, or from the folder that holds it.

    Raises:
        ConfigError: If it is missing or no analysis.
    """
    file = path / ANALYSIS_FILE if path.is_dir() else path
    try:
        return read_record(Analysis, file, ConfigError, allow_nan=False)
    except OSError as error:
        raise ConfigError(f"No analysis at {path}: `pelap analyze MODEL --output DIR`.") from error
