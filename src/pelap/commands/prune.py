"""`pelap prune`: latent channels and the denoiser's width removed; a diffusers folder comes out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Optional

from pelap.analysis.analysis_record import Fill
from pelap.commands.analyze import MeasuredOn
from pelap.commands.verb_settings import (
    AnyFloat,
    AnyInt,
    AnyOutput,
    AnyPath,
    AnyText,
    JsonSettings,
    ModelSettings,
    PromptSettings,
    Switch,
    fields_of,
    shown,
)
from pelap.config.overrides import given_settings
from pelap.core.errors import ConfigError
from pelap.core.json_values import JsonObject
from pelap.core.notes import note

if TYPE_CHECKING:
    from pelap.commands.any_model import AnyPictures
    from pelap.commands.prune_model import Pruned


@dataclass(frozen=True, kw_only=True)
class PruneSettings(ModelSettings, JsonSettings, MeasuredOn, PromptSettings):
    """What `pelap prune` takes."""

    output: AnyOutput = None
    """The new model folder."""
    keep: AnyText = None
    """A number of channels (8), or channels (0,2,3)."""
    max_psnr_drop: AnyFloat = None
    """Keep the fewest within so many dB."""
    criterion: AnyText = None
    """Who chooses (by default the best one measured)."""
    fill: Annotated[Optional[Fill], shown("{zero,mean,linear}")] = None  # noqa: UP045
    """What stands in for removed channels (linear where it can be folded)."""
    rotate: Literal["none", "pca", "decoder"] = "none"
    """Change of basis first, so that what matters sits in the first channels."""
    tokens: AnyInt = None
    """Make one token of so many (4): patches twice as long; of transformers."""
    denoiser_macs: AnyFloat = None
    """Narrow the denoiser to this share of its MACs (0.55)."""
    denoiser_latency: AnyFloat = None
    """Narrow it to this share of a step's time, measured here."""
    denoiser_widths: AnyText = None
    """Of each level (24,48), or heads and layers (12,20)."""
    denoiser_criterion: AnyText = None
    """Which units stay: random, magnitude, taylor or diff_pruning (taylor where it can be)."""
    analysis: AnyPath = None
    """Of this model, in place of a new one."""
    dry_run: Switch = False
    """Print the plan, write nothing."""
    overwrite: Switch = False
    """Replace what pelap made at --output."""


PASSED = ("max_psnr_drop", "criterion", "fill", "rotate", "tokens", "denoiser_macs",
          "denoiser_latency", "denoiser_criterion", "dry_run", "unconditional")  # fmt: skip


def run(settings: PruneSettings) -> "Pruned":
    """Prune the model and write it, or only plan that."""
    if settings.output is None and not settings.dry_run:
        raise ConfigError("Give --output FOLDER, or --dry-run.")
    from pelap.core.output import claimed

    with claimed(settings.output, settings.overwrite):
        from pelap.commands.analyze_model import analysis_settings
        from pelap.commands.prune_model import prune
        from pelap.models.model_pictures import pictures_config

        measured = fields_of(MeasuredOn, settings)
        analysis_settings(measured)  # refused before the model is opened
        chosen, given = _chosen(settings), bool(given_settings(settings.overrides))
        drawn = settings.prompt_pictures(given)
        model = settings.open()
        config: AnyPictures = drawn
        if drawn is None and (given or model.config is not None):
            config = pictures_config(model, settings.overrides)
        pruned = prune(model, config, analysis=settings.analysis, **chosen, **measured)
        if not settings.dry_run and settings.output is not None:
            pruned.save(settings.output, overwrite=settings.overwrite)
            if pruned.note is not None:
                note(pruned.note)
        return pruned


def _chosen(settings: PruneSettings) -> JsonObject:
    """Arguments of `prune`."""
    from pelap.pruning.latents.latent_plan import parse_keep

    chosen = {name: getattr(settings, name) for name in PASSED}
    if settings.keep is not None:
        channels, number = parse_keep(settings.keep)
        chosen["keep"] = number if channels is None else channels
    if settings.denoiser_widths is not None:
        chosen["denoiser_widths"] = _numbers("--denoiser-widths", settings.denoiser_widths)
    return chosen


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r}: give numbers with commas (24,48).") from error
