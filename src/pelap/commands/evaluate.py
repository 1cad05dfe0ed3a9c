"""`pelap evaluate`: a run, or any model, measured on test pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pelap.commands.verb_settings import (
    AnyOutput,
    DeviceSettings,
    JsonSettings,
    ModelName,
    OverrideSettings,
    PromptSettings,
    Result,
    Switch,
    is_model,
    shown,
)
from pelap.config.overrides import (
    apply_overrides,
    given_settings,
    refuse_named_code,
    refuse_others,
)
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError
from pelap.core.files import write_json
from pelap.core.json_values import JsonObject
from pelap.core.records import to_json_dict
from pelap.measure.evaluation_record import Evaluation, MetricValue, ModelEvaluation

if TYPE_CHECKING:
    from pelap.commands.any_model import AnyModel, AnyPictures

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DeviceSettings, OverrideSettings, JsonSettings, PromptSettings):
    """What `pelap evaluate` takes."""

    model: ModelName
    """A run, a diffusers folder or a hub id."""
    output: AnyOutput = None
    """Of a model that is no run: folder for evaluation.json."""
    unconditional: Switch = False
    """Run a denoiser that wants text or a class on an empty prompt, or on none."""
    metrics: Annotated[tuple[str, ...], shown("METRIC …")] = ()
    """Quality to add: psnr ssim rfd fd fd_to_reconstructions kid precision recall fid
    class_accuracy reconstruction_accuracy."""


@dataclass(frozen=True)
class EvaluationResult(Result):
    """What `evaluate` measured."""

    evaluation: Evaluation
    """What evaluation.json holds."""

    def describe(self) -> str:
        """A figure a line, then the verdict with its reasons."""
        found = self.evaluation
        shown = ("diffusion_loss", "zero_latent_diffusion_loss", "reconstruction_mse_sum",
                 "masked_reconstruction_mse_sum", "active_channels")  # fmt: skip
        lines = [f"{name:32} {getattr(found, name):.4f}" for name in shown]
        lines.append(f"{'mask_mean':32} {' '.join(f'{value:.4f}' for value in found.mask_mean)}")
        for name, value in (found.quality or {}).items():
            lines.append(f"{name:32} {_with_interval(value)}")
        sets = found.channel_sets
        if sets is not None:
            channels = " ".join(map(str, sets.static.channels))
            lines.append(f"{'channel_sets':32} {sets.num_sets} distinct")
            lines.append(f"{'best_static_set':32} {channels} (costs {sets.static.cost_db:.2f} dB)")
        lines.append(f"{'verdict':32} {found.collapse.verdict}")
        lines += [f"{'':32} {reason}" for reason in found.collapse.reasons]
        return "\n".join(lines)

    def as_dict(self) -> JsonObject:
        """What evaluation.json holds."""
        return to_json_dict(self.evaluation)


@dataclass(frozen=True)
class EvaluatedModel(Result):
    """What `evaluate` measured of a model that is no run of ours."""

    evaluation: ModelEvaluation

    def describe(self) -> str:
        """A figure a line, then the verdict with its reasons."""
        found = self.evaluation
        lines = [
            f"{'pictures':32} {found.num_pictures:,} of {found.data}",
            f"{'told':32} {found.conditions or 'nothing'}",
        ]
        for name in ("diffusion_loss", "zero_latent_diffusion_loss", "reconstruction_psnr_db"):
            lines.append(f"{name:32} {getattr(found, name):.4f}")
        for name, value in (found.quality or {}).items():
            lines.append(f"{name:32} {_with_interval(value)}")
        lines.append(f"{'verdict':32} {found.collapse.verdict}")
        return "\n".join([*lines, *(f"{'':32} {reason}" for reason in found.collapse.reasons)])

    def as_dict(self) -> JsonObject:
        """What evaluation.json holds."""
        return to_json_dict(self.evaluation)

    def save(self, folder: str | Path) -> None:
        """Write evaluation.json.

        Raises:
            RunError: If another command writes to that folder.
        """
        from pelap.core.output import locked

        folder = Path(folder)
        with locked(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / EVALUATION_FILE, self.as_dict())


def evaluate(
    model: "RunFolder | AnyModel",
    metrics: Sequence[str] = (),
    pictures: "AnyPictures" = None,
    *,
    unconditional: bool = False,
) -> EvaluationResult | EvaluatedModel:
    """Measure a run's best model on its test split and write the run's evaluation.json; or measure
    any model, and write nothing.

        pelap.evaluate("runs/first", ["psnr", "ssim"]).describe()
        pelap.evaluate(small, ["psnr"], pelap.pictures("photos", size=16))

    Args:
        model: The run or its folder; or what `open_model` takes, or an earlier step returned.
        metrics: Names of quality metrics to add.
        pictures: Of a run its own by default, otherwise a whole config: for pictures that moved,
            another sampler, or another budget of a nested gate. Of a model any pictures, with the
            captions or classes that its denoiser takes.
        unconditional: Run a model's denoiser that wants text or a class on an empty prompt.

    Returns:
        Losses (mean squared errors), qualities with their intervals (PSNR in dB), and the verdict
        on collapse; of a run masks by channel in [0, 1] as well.

    Raises:
        ConfigError: If a metric is unknown, the config differs in what a run cannot change, or
            pictures do not say what a denoiser takes.
        RunError: If there is no such run, it has no model yet, or nothing can be run.
        ModelError: If a model cannot be opened.
        DataError: If pictures cannot be read.
    """
    if isinstance(model, RunFolder) or (isinstance(model, str | Path) and not is_model(model)):
        folder = model if isinstance(model, RunFolder) else open_run(model)
        return _evaluate_run(folder, metrics, pictures)
    from pelap.commands.any_model import as_model, as_pictures, told_nothing
    from pelap.measure.model_evaluation import evaluate_model

    opened = as_model(model)
    config = as_pictures(opened, pictures)
    if unconditional:
        opened = told_nothing(opened, config)
    return EvaluatedModel(evaluate_model(opened, config, metrics))


def _evaluate_run(
    folder: RunFolder, metrics: Sequence[str], config: "AnyPictures"
) -> EvaluationResult:
    from pelap.measure.run_evaluation import evaluate_run

    if config is None:
        refuse_named_code(folder.config(), ())
    elif not isinstance(config, RunConfig):
        raise ConfigError(f"{folder.path} is a run and has its pictures: give a whole RunConfig.")
    else:
        refuse_others(config, folder.config(), ("data", "evaluation", "gate.budget"))
    return EvaluationResult(evaluate_run(folder, config, metrics))


def run(settings: EvaluateSettings) -> EvaluationResult | EvaluatedModel:
    """Evaluate the run or the model."""
    if not is_model(settings.model):
        folder = open_run(settings.model)
        for option in ("output", "unconditional", "prompts"):
            if getattr(settings, option):
                raise ConfigError(f"--{option} is for models, and {settings.model} is a run.")
        config = apply_overrides(folder.config(), settings.overrides)
        refuse_named_code(config, settings.overrides)
        return evaluate(folder, settings.metrics, config)
    from pelap.models.model_pictures import pictures_config
    from pelap.models.opening import open_model

    drawn = settings.prompt_pictures(bool(given_settings(settings.overrides)))
    model = open_model(settings.model)
    pictures = drawn or pictures_config(model, settings.overrides)
    result = evaluate(model, settings.metrics, pictures, unconditional=settings.unconditional)
    if settings.output is not None and isinstance(result, EvaluatedModel):
        result.save(settings.output)
    return result


def _with_interval(quality: MetricValue) -> str:
    text = f"{quality.value:.4f}"
    if quality.low is not None:
        text += f" ({quality.low:.4f} to {quality.high:.4f})"
    return f"{text}, {quality.num_pictures:,} pictures"
