"""`pelap evaluate`: a run measured on its test split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pelap.commands.verb_settings import JsonSettings, OverrideSettings, Result, RunName, shown
from pelap.config.overrides import apply_overrides, refuse_named_code, refuse_others
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.json_values import JsonObject
from pelap.core.records import to_json_dict
from pelap.measure.evaluation_record import Evaluation, MetricValue


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(OverrideSettings, JsonSettings):
    """What `pelap evaluate` takes."""

    run_folder: RunName
    """The run's folder."""
    metrics: Annotated[tuple[str, ...], shown("METRIC …")] = ()
    """Quality to add: psnr ssim rfd fd fd_to_reconstructions kid precision recall fid
    class_accuracy reconstruction_accuracy."""


@dataclass(frozen=True)
class EvaluationResult(Result):
    """What `evaluate` measured."""

    evaluation: Evaluation
    """What evaluation.json holds."""

    def describe(self) -> str:
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
        return to_json_dict(self.evaluation)


def evaluate(
    run: str | Path | RunFolder, metrics: Sequence[str] = (), config: RunConfig | None = None
) -> EvaluationResult:
    """Measure a run's best model on its test split and write the run's evaluation.json.

        pelap.evaluate("runs/first", ["psnr", "ssim"]).describe()

    Args:
        run: The run or its folder.
        metrics: Names of quality metrics to add.
        config: The run's own by default; for pictures that moved, another sampler, or another
            budget of a nested gate.

    Returns:
        Losses (mean squared errors), masks by channel in [0, 1], qualities with their intervals
        (PSNR in dB), and the verdict on collapse.

    Raises:
        ConfigError: If a metric is unknown, or the config differs in what a run cannot change.
        RunError: If there is no such run, or it has no model yet.
        DataError: If its pictures cannot be read.
    """
    from pelap.measure.run_evaluation import evaluate_run

    folder = run if isinstance(run, RunFolder) else open_run(run)
    if config is None:
        refuse_named_code(folder.config(), ())
    else:
        refuse_others(config, folder.config(), ("data", "evaluation", "gate.budget"))
    return EvaluationResult(evaluate_run(folder, config, metrics))


def run(settings: EvaluateSettings) -> EvaluationResult:
    """Evaluate the run."""
    folder = open_run(settings.run_folder)
    config = apply_overrides(folder.config(), settings.overrides)
    refuse_named_code(config, settings.overrides)
    return evaluate(folder, settings.metrics, config)


def _with_interval(quality: MetricValue) -> str:
    text = f"{quality.value:.4f}"
    if quality.low is not None:
        text += f" ({quality.low:.4f} to {quality.high:.4f})"
    return f"{text}, {quality.num_pictures:,} pictures"
