"""`pelap train`: a preset into a new run folder."""

from dataclasses import dataclass
from pathlib import Path

from pelap.commands.verb_settings import (
    Output,
    PresetSettings,
)
from pelap.config.presets import get_preset
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class TrainSettings(PresetSettings):
    """What `pelap train` takes."""

    output: Output
    """The new run folder."""


def train(config: RunConfig | str, output: str | Path) -> RunFolder:
    """Train a latent diffusion model from scratch into a new run folder.

        run = pelap.train("tiny", "runs/first")

    Args:
        config: Everything that decides the run, or a preset's name.
        output: The new folder.

    Returns:
        The run, finished; `run.metrics()` are the lines that it logged.

    Raises:
        ConfigError: If a setting cannot be used.
        DataError: If the pictures cannot be read.
        RunError: If `output` exists already, or the loss stops being finite.
    """
    from pelap.training import trainer

    return trainer.train(get_preset(config) if isinstance(config, str) else config, Path(output))


def run(settings: TrainSettings) -> None:
    """Train; nothing is printed at the end."""
    train(settings.run_config(), settings.output)
