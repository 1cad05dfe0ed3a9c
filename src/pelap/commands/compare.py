"""`pelap compare`: models beside each other, quality against cost and the same prompts drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from tyro.conf import Positional

from pelap.commands.verb_settings import (
    AnyFloat,
    AnyInt,
    AnyOutput,
    AnyPath,
    AnyText,
    DeviceSettings,
    JsonSettings,
    OverrideSettings,
    shown,
)
from pelap.config.overrides import given_settings

if TYPE_CHECKING:
    from pelap.commands.compare_drawn import DrawnComparison
    from pelap.commands.compare_models import ModelComparison

MEASURED = ("num_pictures", "num_samples", "sampler", "steps", "batch_sizes", "seed")
"""Fields of `TradeoffSettings`."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings(DeviceSettings, OverrideSettings, JsonSettings):
    """What `pelap compare` takes. What is None has the default in brackets."""

    paths: Annotated[Positional[tuple[Path, ...]], shown("MODEL")] = ()
    """Models that sample; the first unpruned one, or else the first, is the reference."""
    output: AnyOutput = None
    """Folder for the page (comparison)."""
    prompts: AnyPath = None
    """File with a prompt or a class a line (captions or classes of the pictures)."""
    num_prompts: AnyInt = None
    """Rows drawn side by side where there is no file (6)."""
    guidance: AnyFloat = None
    """Of the pictures side by side (the pipeline's own)."""
    steps: AnyInt = None
    """Denoising steps (side by side the pipeline's own; samples and times 15)."""
    seed: AnyInt = None
    """Of the noise (0)."""
    num_pictures: AnyInt = None
    """Test pictures decoded (2000)."""
    num_samples: AnyInt = None
    """Samples of each model for Fréchet distances (5000)."""
    sampler: AnyText = None
    """Of those: ddpm, ddim or dpm-solver++ (dpm-solver++)."""
    batch_sizes: Annotated[Optional[tuple[int, ...]], shown("INT …")] = None  # noqa: UP045
    """Pictures at a time, for times (1 16)."""


def run(settings: CompareSettings) -> "ModelComparison | DrawnComparison":
    """Open, measure, draw, and write the page; without pictures, only what can be drawn."""
    from pelap.commands.compare_drawn import compare_drawn
    from pelap.commands.compare_measure import TradeoffSettings
    from pelap.commands.compare_models import check_comparison, compare_subjects
    from pelap.commands.compare_pictures import RowSettings
    from pelap.commands.compared_models import giver_of, open_subjects
    from pelap.core.output import locked
    from pelap.models.model_pictures import pictures_config

    chosen = {name: getattr(settings, name) for name in MEASURED}
    measured = TradeoffSettings(**{name: v for name, v in chosen.items() if v is not None})
    num = RowSettings.num_rows if settings.num_prompts is None else settings.num_prompts
    rows = RowSettings(settings.prompts, num, settings.guidance, settings.steps)
    output = settings.output or Path("comparison")
    check_comparison(output, measured, rows)
    with locked(output):
        subjects = open_subjects(settings.paths)
        giver = giver_of(subjects)
        if giver.config is None and not given_settings(settings.overrides):
            return compare_drawn(subjects, output, measured, rows)
        config = pictures_config(giver, settings.overrides)
        return compare_subjects(subjects, output, config, measured, rows)
