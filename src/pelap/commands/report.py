"""`pelap report`: one page about evaluated runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from pelap.commands.verb_settings import (
    AnyOutput,
    Written,
    shown,
)
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What `pelap report` takes."""

    paths: Annotated[Positional[tuple[Path, ...]], shown("RUN")] = ()
    """Evaluated runs."""
    output: AnyOutput = None
    """Folder for the page (the first run's)."""


def report(runs: Sequence[str | Path | RunFolder], output: str | Path | None = None) -> Written:
    """Write one self-contained page about evaluated runs, and its figures.

        pelap.report(["runs/baseline", "runs/lambda_0.01"], "runs/page")

    Args:
        runs: One or several, in the order in which to show them.
        output: Folder for report.html and figures/; the first run's own by default.

    Returns:
        Where the page is.

    Raises:
        RunError: If there is no such run, it has not been evaluated, or another command writes to
            `output`.
    """
    from pelap.core.output import locked
    from pelap.pages.run_page import write_report

    folders = [run if isinstance(run, RunFolder) else open_run(run) for run in runs]
    folder = Path(output) if output else folders[0].path
    with locked(folder):
        return Written(write_report(folders, folder))


def run(settings: ReportSettings) -> Written:
    """The page about the runs."""
    if not settings.paths:
        raise ConfigError("Give RUN: evaluated runs; see `pelap report -h`.")
    for path in settings.paths:
        if (path / "model_index.json").is_file():
            raise ConfigError(
                f"{path} is a model, and `pelap report` is about runs: `pelap compare MODEL…` "
                "writes a page about models."
            )
    return report(settings.paths, settings.output)
