"""`pelap resume`: an interrupted run goes on, or a finished one for longer."""

from dataclasses import dataclass
from pathlib import Path

from pelap.commands.verb_settings import (
    AnyOutput,
    DeviceSettings,
    OverrideSettings,
    RunName,
)
from pelap.config.overrides import apply_overrides
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder, open_run


@dataclass(frozen=True, kw_only=True)
class ResumeSettings(DeviceSettings, OverrideSettings):
    """What `pelap resume` takes."""

    run_folder: RunName
    """The run's folder."""
    output: AnyOutput = None
    """Go on in a copy, and leave RUN as it is."""


def resume(
    run: str | Path | RunFolder,
    config: RunConfig | None = None,
    *,
    output: str | Path | None = None,
) -> RunFolder:
    """Continue a run from its last checkpoint, or from the start if it has none.

        pelap.resume("runs/first")

    Args:
        run: The run or its folder.
        config: The run's own by default; its length may change where its schedule is a trapezoid.
        output: Go on in a copy, and leave the run as it is.

    Returns:
        The finished run.

    Raises:
        ConfigError: If a setting cannot change.
        RunError: If there is no such run, its checkpoint cannot be used, it was stopped because its
            model had collapsed, or another process works on it.
    """
    from pelap.training import trainer

    path = run.path if isinstance(run, RunFolder) else Path(run)
    return trainer.resume(path, config, output=None if output is None else Path(output))


def run(settings: ResumeSettings) -> None:
    """Resume; nothing is printed at the end."""
    folder = open_run(settings.run_folder)
    config = apply_overrides(folder.config(), settings.overrides)
    resume(folder, config, output=settings.output)
