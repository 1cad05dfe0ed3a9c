"""`pelap sweep`: a grid of settings trained with several seeds; call again to go on."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from pelap.commands.verb_settings import JsonSettings, PresetSettings

if TYPE_CHECKING:
    from pelap.commands.sweep_table import SweepResult


@dataclass(frozen=True, kw_only=True)
class SweepSettings(PresetSettings, JsonSettings):
    """What `pelap sweep` takes."""

    output: Path
    """Folder of trials and results."""
    grid: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="GROUP.FIELD=A,B")] = ()
    """A setting and its values; several make all combinations."""
    seeds: int = 1
    """Trainings of each combination."""
    jobs: int = 1
    """Trials at a time."""
    metrics: tuple[str, ...] = ()
    """Quality metrics, as for evaluate."""


def run(settings: SweepSettings) -> "SweepResult":
    """Train and evaluate what is not done yet."""
    config = settings.run_config()
    from pelap.commands.sweep_trials import sweep

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trials are to end with it
    return sweep(
        config,
        settings.grid,
        settings.seeds,
        settings.output,
        jobs=settings.jobs,
        metrics=settings.metrics,
    )
