"""A model whose denoiser sees fewer tokens: checked, made, and its last layer fitted."""

from dataclasses import replace
from functools import partial

from pelap.core.errors import ConfigError
from pelap.families.registry import config_of, denoiser_family
from pelap.measure.macs import count_denoiser_macs
from pelap.models.loaded import LoadedModel
from pelap.models.pipeline_limits import check_width_free
from pelap.pruning.pruned_units import after_tokens, kept_units
from pelap.pruning.pruning_record import TokensRecord
from pelap.pruning.tokens.token_merging import (
    TIMES,
    check_carriers,
    merge_outputs,
    merge_tokens,
)
from pelap.pruning.width.judging import PredictionJudge
from pelap.pruning.width.width_criteria import WidthEvidence, magnitude

MERGED = TIMES**2
"""Tokens that become one."""


def check_tokens(model: LoadedModel, tokens: int, num_kept: int | None) -> None:
    """Refuse what cannot work before anything long begins.

    Args:
        model: Whose denoiser shall see fewer tokens.
        tokens: How many become one.
        num_kept: Latent channels that stay, where that is known already.

    Raises:
        ConfigError: Names the option.
        ModelError: If the class has no larger patches, or a part of the pipeline is in the way.
    """
    if tokens != MERGED:
        raise ConfigError(f"--tokens is {tokens}: one token can be made of {MERGED}.")
    if model.denoiser is None:
        raise ConfigError(f"{model.name} has no denoiser whose tokens could be made fewer.")
    check_width_free(model, "its tokens")
    config = config_of(model.denoiser)
    denoiser_family(model.denoiser).coarser(config, TIMES)
    check_carriers(model.denoiser, model.num_channels if num_kept is None else num_kept)


def merge_model(
    model: LoadedModel, original: LoadedModel, judge: PredictionJudge | None
) -> tuple[LoadedModel, TokensRecord]:
    """The model with a denoiser that sees a quarter of the tokens, and what was done.

    Args:
        model: Left as it is; latent channels and width may have been removed from it.
        original: What its cost is compared with.
        judge: From `find_judge` of the model with all its width and tokens, for MERGED tokens;
            fits the last layer.

    Raises:
        ModelError: If the class has no larger patches, or too few features to carry what is in one.
    """
    assert model.denoiser is not None
    assert original.denoiser is not None
    merged = merge_tokens(
        model.denoiser, magnitude(WidthEvidence(dict(model.denoiser.state_dict())))
    )
    before, after = merged.patch_sizes
    error = None
    if judge is not None:
        error = judge(merged.denoiser, partial(merge_outputs, patch=before))
    record: TokensRecord = {
        "patch_sizes": [before, after],
        "macs_before": count_denoiser_macs(original.denoiser),
        "macs": count_denoiser_macs(merged.denoiser),
        "carried": len(merged.carried),
        "error": error,
    }
    units = after_tokens(kept_units(model), model.denoiser, merged.layout, merged.kept)
    return replace(model, denoiser=merged.denoiser, kept_units=units), record
