"""`pelap sample`: pictures drawn from noise by a run or by any pipeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

from pelap.commands.verb_settings import (
    AnyFloat,
    AnyInt,
    AnyText,
    DeviceSettings,
    ModelName,
    Output,
    Switch,
    Written,
    fields_of,
    is_model,
    shown,
)
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from pelap.commands.any_model import ModelResult
    from pelap.models.loaded import LoadedModel


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """How pictures are drawn."""

    prompt: AnyText = None
    """What a pipeline that takes text is told."""
    prompts: Annotated[AnyText, shown("FILE")] = None
    """The same with a prompt or class a line, a row of the grid each; varied for 200."""
    classes: AnyText = None
    """All, or names or numbers (ship,truck); a row of the grid each."""
    num: AnyInt = None
    """Pictures (64 of a run; of a pipeline 4), with --prompts or --classes of each (8; 4)."""
    steps: AnyInt = None
    """Denoising steps (50 of a run; the pipeline's own)."""
    guidance: AnyFloat = None
    """Towards prompt or class, 1 is none (1 of a run; the pipeline's own)."""
    size: AnyInt = None
    """Of a pipeline's pictures, in pixels (its own)."""
    seed: int = 0
    """Of the noise."""
    precision: str = "fp32"
    """Of denoiser and decoder: fp32 or bf16."""
    sampler: AnyText = None
    """Of a run: ddpm, ddim or dpm-solver++ (ddim); a pipeline has its own."""
    compile: Switch = False
    """Of a run: translate by torch.compile first."""
    channel_sets: Annotated[
        Optional[Literal["static", "drawn"]],  # noqa: UP045
        shown("{static,drawn}"),
    ] = None
    """Of a run with an adaptive gate: its best static set, or sets drawn as often as they occur
    (static)."""


OF_RUNS = ("sampler", "compile", "channel_sets")
OF_PIPELINES = ("prompt", "prompts", "size")


@dataclass(frozen=True, kw_only=True)
class SampleSettings(DrawSettings, DeviceSettings):
    """What `pelap sample` takes."""

    model: ModelName
    """A run, a diffusers folder or a hub id."""
    output: Output
    """A .png, .jpg or .webp file, or a new folder."""


def sample(
    model: "str | Path | RunFolder | LoadedModel | ModelResult | DiffusionPipeline",
    output: str | Path,
    **settings: Any,
) -> Written:
    """Draw pictures with a run's best model, or with any pipeline.

        pelap.sample("runs/first", "grid.png", steps=20, num=16)
        pelap.sample(small, "cats.jpg", prompt="a cat", num=4)

    Args:
        model: A run or its folder; or a pipeline: its folder, its hub id, what `open_model` or
            `prune` returned.
        output: A .png, .jpg or .webp file for one grid, or a new folder for a picture a file.
        **settings: Fields of `DrawSettings`.

    Returns:
        Where they are.

    Raises:
        ConfigError: If the sampler, the precision, a count or `output` cannot be used, or a
            pipeline is told nothing that wants a prompt or a class.
        DataError: If the prompts cannot be read.
        ModelError: If a pipeline cannot be loaded or called.
        RunError: If the run has no model yet, or an adaptive gate was not evaluated; or another
            command writes to `output`.
    """
    from pelap.core.output import locked

    how, output = DrawSettings(**settings), Path(output)
    with locked(output):
        _sample(model, output, how)
    return Written(output)


def _sample(
    model: "str | Path | RunFolder | LoadedModel | ModelResult | DiffusionPipeline",
    output: Path,
    how: DrawSettings,
) -> None:
    if isinstance(model, RunFolder) or (isinstance(model, str | Path) and not is_model(model)):
        _sample_run(model if isinstance(model, RunFolder) else open_run(model), output, how)
        return
    from pelap.commands.any_model import as_model
    from pelap.measure.model_sampling import ModelSampling, sample_model
    from pelap.measure.run_sampling import check_output

    _refuse(how, OF_RUNS, "is for runs: a pipeline draws as its own scheduler says")
    asked = ModelSampling(**fields_of(ModelSampling, how))
    asked.check()  # refused before the model is opened
    check_output(output)
    sample_model(as_model(model), output, asked)


def _sample_run(run: RunFolder, output: Path, how: DrawSettings) -> None:
    from pelap.measure.run_sampling import sample_run

    _refuse(how, OF_PIPELINES, f"is for pipelines, and {run.path} is a run")
    precision: Any = how.precision
    sample_run(
        run,
        output,
        sampler=how.sampler or "ddim",
        num_steps=50 if how.steps is None else how.steps,
        num_samples=how.num,
        classes=how.classes,
        guidance=1.0 if how.guidance is None else how.guidance,
        seed=how.seed,
        channel_sets=how.channel_sets or "static",
        precision=precision,
        compiled=how.compile,
    )


def _refuse(how: DrawSettings, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(how, name):
            raise ConfigError(f"--{name.replace('_', '-')} {why}.")


def run(settings: SampleSettings) -> Written:
    """Draw the pictures."""
    return sample(settings.model, settings.output, **fields_of(DrawSettings, settings))
