"""`pelap diagnose`: at which noise levels a denoiser works, and whether the model is healthy."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from pelap.commands.verb_settings import (
    AnyOutput,
    DeviceSettings,
    JsonSettings,
    OverrideSettings,
    PromptSettings,
    Switch,
    shown,
)
from pelap.config.overrides import apply_overrides, given_settings
from pelap.core.errors import ConfigError
from pelap.core.notes import note

if TYPE_CHECKING:
    from pelap.commands.diagnose_model import DiagnosisResult


@dataclass(frozen=True, kw_only=True)
class DiagnoseSettings(DeviceSettings, OverrideSettings, JsonSettings, PromptSettings):
    """What `pelap diagnose` takes."""

    model: Annotated[Positional[Path], shown("RUN|MODEL")]
    """A run, a diffusers folder or a hub id."""
    num_pictures: int = 1000
    """Test pictures."""
    output: AnyOutput = None
    """Folder for the files (by default the run's)."""
    unconditional: Switch = False
    """Run a denoiser that wants text or a class on an empty prompt, or on none."""


def run(settings: DiagnoseSettings) -> "DiagnosisResult":
    """Diagnose the model and write diagnosis.json and figures."""
    from pelap.commands.diagnose_model import (
        DiagnosisResult,
        diagnose,
        diagnose_model,
        load_diagnosable,
    )

    drawn = settings.prompt_pictures(bool(given_settings(settings.overrides)))
    how = {"num_pictures": settings.num_pictures, "output": settings.output}
    if drawn is not None:
        return diagnose(settings.model, drawn, unconditional=settings.unconditional, **how)
    model = load_diagnosable(settings.model, unconditional=settings.unconditional)
    config = apply_overrides(model.config, settings.overrides, is_run=model.is_run_config)
    if not model.is_run_config and "--data.source" not in given_settings(settings.overrides):
        raise ConfigError(f"{settings.model} names no pictures: give --data.source, or --prompts.")
    if settings.unconditional and getattr(model.system.denoiser, "condition", None) is None:
        note(f"--unconditional has no effect: {model.name} wants no condition.")
    return DiagnosisResult(diagnose_model(model, config, **how))
