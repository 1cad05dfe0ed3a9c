"""`pelap sample`: pictures drawn from noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pelap.commands.verb_settings import AnyInt, AnyText, RunName, Switch, Written, fields_of
from pelap.config.run_folder import RunFolder, open_run


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How pictures are drawn."""

    sampler: str = "ddim"
    """ddpm, ddim or dpm-solver++."""
    steps: int = 50
    """Denoising steps."""
    num: AnyInt = None
    """Pictures (64); with --classes, of each (8)."""
    classes: AnyText = None
    """All, or names or numbers (ship,truck); a row of the grid each."""
    guidance: float = 1.0
    """Towards the class; 1 is none."""
    seed: int = 0
    """Of the noise."""
    precision: str = "fp32"
    """Of denoiser and decoder: fp32 or bf16."""
    compile: Switch = False
    """Translate by torch.compile first."""
    channel_sets: Literal["static", "drawn"] = "static"
    """For an adaptive gate: its best static set, or sets drawn as often as they occur."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings(DrawSettings):
    """What `pelap sample` takes."""

    run_folder: RunName
    """The run's folder."""
    output: Path
    """A .png, .jpg or .webp file, or a new folder."""


def sample(run: str | Path | RunFolder, output: str | Path, **settings: Any) -> Written:
    """Draw pictures with a run's best model.

        pelap.sample("runs/first", "grid.png", steps=20, num=16)

    Args:
        run: The run or its folder.
        output: A .png, .jpg or .webp file for one grid, or a new folder for a picture a file.
        **settings: Fields of `DrawSettings`.

    Returns:
        Where they are.

    Raises:
        ConfigError: If the sampler, the precision, a count or `output` cannot be used.
        RunError: If the run has no model yet, or an adaptive gate was not evaluated.
    """
    from pelap.measure.run_sampling import sample_run

    how = DrawSettings(**settings)
    precision: Any = how.precision
    sample_run(
        run if isinstance(run, RunFolder) else open_run(run),
        Path(output),
        sampler=how.sampler,
        num_steps=how.steps,
        num_samples=how.num,
        classes=how.classes,
        guidance=how.guidance,
        seed=how.seed,
        channel_sets=how.channel_sets,
        precision=precision,
        compiled=how.compile,
    )
    return Written(Path(output))


def run(settings: SampleSettings) -> Written:
    """Draw the pictures."""
    return sample(settings.run_folder, settings.output, **fields_of(DrawSettings, settings))
