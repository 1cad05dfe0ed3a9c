"""`pelap report`: one page about evaluated runs, or about models (quality against cost)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from tyro.conf import Positional

from pelap.commands.verb_settings import (
    AnyInt,
    AnyPath,
    AnyText,
    JsonSettings,
    OverrideSettings,
    Written,
    shown,
)
from pelap.config.overrides import given_settings
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from pelap.commands.compare import ModelComparison

MODELS_ONLY = ("num_pictures", "num_samples", "sampler", "steps", "batch_sizes", "seed")
"""Of a page about models; a page about runs measures nothing."""


@dataclass(frozen=True, kw_only=True)
class ReportSettings(OverrideSettings, JsonSettings):
    """What `pelap report` takes. What is None has the default of `TradeoffSettings`."""

    paths: Annotated[Positional[tuple[Path, ...]], shown("RUN|MODEL")] = ()
    """Evaluated runs, or models with an unpruned and a randomly pruned one among them."""
    output: AnyPath = None
    """Folder for the page (of runs: the first one's)."""
    num_pictures: AnyInt = None
    """Models only: test pictures decoded (2000)."""
    num_samples: AnyInt = None
    """Models only: samples of each model (5000)."""
    sampler: AnyText = None
    """Models only: ddpm, ddim or dpm-solver++ (dpm-solver++)."""
    steps: AnyInt = None
    """Models only: denoising steps (15)."""
    batch_sizes: Annotated[Optional[tuple[int, ...]], shown("INT …")] = None  # noqa: UP045
    """Models only: pictures at a time, for times (1 16)."""
    seed: AnyInt = None
    """Models only: of the samples (0)."""


def report(runs: Sequence[str | Path | RunFolder], output: str | Path | None = None) -> Written:
    """Write one self-contained page about evaluated runs, and its figures.

        pelap.report(["runs/baseline", "runs/lambda_0.01"], "runs/page")

    Args:
        runs: One or several, in the order in which to show them.
        output: Folder for report.html and figures/; the first run's own by default.

    Returns:
        Where the page is.

    Raises:
        RunError: If there is no such run, or it has not been evaluated.
    """
    from pelap.pages.run_page import write_report

    folders = [run if isinstance(run, RunFolder) else open_run(run) for run in runs]
    return Written(write_report(folders, Path(output) if output else folders[0].path))


def run(settings: ReportSettings) -> "Written | ModelComparison":
    """The page about runs, or where a path is a diffusers folder the one about models."""
    if not settings.paths:
        raise ConfigError("Give RUN or MODEL: evaluated runs, or models; see `pelap report -h`.")
    chosen = {name: getattr(settings, name) for name in MODELS_ONLY}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if not any((path / "model_index.json").is_file() for path in settings.paths):
        _refuse(settings, list(chosen))
        return report(settings.paths, settings.output)
    if settings.output is None:
        raise ConfigError("Give --output FOLDER for the page about these models.")
    from pelap.commands.compare import (
        check_comparison,
        compare_subjects,
        giver_of,
        open_subjects,
    )
    from pelap.commands.compare_measure import TradeoffSettings
    from pelap.models.model_pictures import pictures_config

    measured = TradeoffSettings(**chosen)
    check_comparison(settings.output, measured)
    subjects = open_subjects(settings.paths)
    config = pictures_config(giver_of(subjects), settings.overrides)
    return compare_subjects(subjects, settings.output, config, measured)


def _refuse(settings: ReportSettings, chosen: list[str]) -> None:
    """Say that what was given is for models, where all paths are runs."""
    names = [f"--{name.replace('_', '-')}" for name in chosen]
    names += ["--json"] if settings.json else []
    names += given_settings(settings.overrides)
    if names:
        raise ConfigError(
            f"`pelap report RUN` takes no setting {names[0]}: that is for models, and one must be "
            "a diffusers folder."
        )
