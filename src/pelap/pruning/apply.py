"""Apply a plan: slice both networks, write the folder with its card."""

from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pelap import __version__
from pelap.analysis.analysis_record import Analysis
from pelap.families.registry import autoencoder_ports
from pelap.method.latent_map import predict_noisy
from pelap.models.loaded import LoadedModel
from pelap.models.saving import ChangedModel, save_model
from pelap.pruning.latents.latent_plan import PrunePlan, PruneRequest, make_plan
from pelap.pruning.latents.latent_slicing import slice_autoencoder, slice_denoiser
from pelap.pruning.pruned_units import after_latents, kept_units
from pelap.pruning.pruning_card import describe_pruning
from pelap.pruning.pruning_record import (
    LatentsRecord,
    PruningCosts,
    PruningRecord,
    TokensRecord,
    WidthRecord,
)

OF_ALL_LATENTS = ("gate", "importance")
"""Parts of a run's pipeline that know its latents as they were."""


@dataclass(frozen=True)
class PrunedModel:
    """The networks after removal."""

    plan: PrunePlan | None
    """Of the latent channels; None where they all stay."""
    model: LoadedModel
    """As it was found, with the sliced networks in place."""
    width: WidthRecord | None = None
    """The record of a narrower denoiser, from `width_record`."""
    tokens: TokensRecord | None = None
    """The record of larger patches, from `merge_model`."""


def plan_pruning(
    model: LoadedModel, request: PruneRequest, analysis: Analysis | None = None
) -> PrunePlan:
    """What would be removed; see `make_plan` for the errors."""
    model.check()
    return make_plan(request, model.num_channels, autoencoder_ports(model.autoencoder), analysis)


@torch.no_grad()
def prune(model: LoadedModel, plan: PrunePlan) -> PrunedModel:
    """Slice autoencoder and denoiser together; `model` itself is left as it is.

    Raises:
        ModelError: If a class cannot express the plan.
    """
    autoencoder = slice_autoencoder(
        model.autoencoder, plan.latent_map, plan.moments, model.normalizer
    )
    denoiser, units = None, None
    if model.denoiser is not None:
        stand_in = predict_noisy(plan.latent_map, plan.moments.covariance)
        denoiser = slice_denoiser(model.denoiser, plan.latent_map, stand_in)
        units = after_latents(kept_units(model), model.denoiser, plan.latent_map, stand_in)
    elif plan.psnr_db_before is not None:
        _rescale(autoencoder, plan)
    changed = replace(
        model,
        autoencoder=autoencoder,
        denoiser=denoiser,
        kept_units=units,
        parts={name: part for name, part in model.parts.items() if name not in OF_ALL_LATENTS},
    )
    return PrunedModel(plan, changed)


def _rescale(autoencoder: nn.Module, plan: PrunePlan) -> None:
    """Estimate scale and shift anew, for the denoiser to come; one that exists knows the old ones.

    The kept latents get mean 0 and variance 1, all together or each, as the config has it.
    """
    config: Any = getattr(autoencoder, "config", None)
    if config is None or "scaling_factor" not in config:
        return
    encode = plan.latent_map.encode
    mean = encode @ plan.moments.mean  # (K,)
    variance = (encode @ plan.moments.covariance @ encode.T).diagonal()  # (K,)
    if config.get("latents_mean") is not None:
        old_mean, old_std = (
            torch.tensor(config[key], dtype=torch.float64)
            for key in ("latents_mean", "latents_std")
        )
        scale = config["scaling_factor"] or 1.0
        new = {"latents_mean": (old_mean + old_std / scale * mean).tolist(),
               "latents_std": (old_std * variance.clamp(min=1e-12).sqrt()).tolist()}  # fmt: skip
        autoencoder.register_to_config(**new)  # type: ignore[operator]
        return
    scale, shift = config["scaling_factor"], config.get("shift_factor")
    if shift is not None:
        spread = variance.mean() + mean.var(correction=0)
        new = {"shift_factor": shift + float(mean.mean()) / scale}
    else:
        spread, new = (variance + mean.square()).mean(), {}
    new["scaling_factor"] = scale / float(spread.clamp(min=1e-12).sqrt())
    autoencoder.register_to_config(**new)  # type: ignore[operator]


def save_pruned(
    pruned: PrunedModel, output: Path, costs: PruningCosts, *, overwrite: bool = False
) -> PruningRecord:
    """Write the diffusers folder and return the record of this pruning.

    Args:
        pruned: From `prune`.
        output: The new folder.
        costs: Measured figures to tell in the card, by name.
        overwrite: Whether a folder that pelap made may be replaced.
    """
    plan, model = pruned.plan, pruned.model
    record = pruning_record(pruned, costs)
    card = describe_pruning(model.name, plan, record, model.history)
    changed = ChangedModel(
        model.autoencoder, model.denoiser, card, dict(record), {}, keeps_autoencoder=plan is None
    )
    save_model(model, changed, output, overwrite=overwrite)
    return record


def pruning_record(pruned: PrunedModel, costs: PruningCosts) -> PruningRecord:
    """What was removed and what it costs, as it stands in the history of the pruned model."""
    plan, model = pruned.plan, pruned.model
    record: PruningRecord = {
        "pruned": date.today().isoformat(),
        "pelap": __version__,
        **_latents_record(plan, model.num_channels),
    }
    if pruned.width is not None:
        record["width"] = pruned.width
    if pruned.tokens is not None:
        record["tokens"] = pruned.tokens
    return {**record, **costs}


def _latents_record(plan: PrunePlan | None, num_channels: int) -> LatentsRecord:
    if plan is None:
        every = list(range(num_channels))
        return {"channels_before": num_channels, "channels_after": num_channels, "kept": every,
                "criterion": None, "fill": "zero", "rotation": "none"}  # fmt: skip
    record: LatentsRecord = {
        "channels_before": plan.num_channels,
        "channels_after": plan.latent_map.num_kept,
        "kept": list(plan.channels),
        "criterion": plan.criterion,
        "fill": plan.fill,
        "rotation": plan.rotation,
    }
    if plan.rotation != "none":
        record["encode"] = plan.latent_map.encode.tolist()
    return record
