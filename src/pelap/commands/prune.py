"""`pelap prune`: a model in; an ordinary, smaller diffusers model out, with what it cost."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pelap.analysis.analysis_record import Analysis, AnalysisSettings
from pelap.analysis.decoding import measure_maps, to_db
from pelap.commands.analyze import analyze_model, read_analysis
from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError
from pelap.data.pictures import Pictures
from pelap.families.registry import autoencoder_ports
from pelap.measure.encoded_batches import Batches
from pelap.method.latent_map import LatentMap
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits
from pelap.pruning.apply import PrunedModel, prune
from pelap.pruning.latents.latent_plan import PrunePlan, PruneRequest, check_request
from pelap.pruning.narrowing import check_width, gather_evidence, narrow_model, width_record
from pelap.pruning.width.width_plan import WidthRequest


@dataclass(frozen=True)
class Wish:
    """What the user asked for: latent channels, the denoiser's width, or both."""

    latents: PruneRequest | None
    width: WidthRequest | None


def check_pruning(model: LoadedModel, wish: Wish, has_pictures: bool) -> None:
    """Refuse what cannot work before anything long begins.

    Raises:
        ConfigError: If the wish is empty, or contradicts itself or the model.
        ModelError: If a class is not supported.
    """
    if wish.latents is None and wish.width is None:
        raise ConfigError("Say what to remove: --keep, --max-psnr-drop or --denoiser-macs.")
    model.check()
    if wish.latents is not None:
        check_request(wish.latents, model.num_channels, autoencoder_ports(model.autoencoder))
    if wish.width is not None:
        check_width(model, wish.width, has_pictures)


def find_analysis(
    model: LoadedModel,
    request: PruneRequest,
    config: RunConfig | None,
    analysis_path: Path | None,
    settings: AnalysisSettings,
) -> Analysis | None:
    """The analysis at that path, or one made now; None if the request needs none."""
    if analysis_path is not None:
        return read_analysis(analysis_path)
    if config is None or not (request.needs_analysis() or request.fill is None):
        return None
    return Analysis.from_dict(analyze_model(model, config, settings))


def prune_model(
    model: LoadedModel,
    plan: PrunePlan | None,
    width: WidthRequest | None,
    config: RunConfig | None,
    num_pictures: int,
) -> tuple[PrunedModel, dict[str, Any]]:
    """Remove channels and width, and measure what that costs.

    Args:
        model: Left as it is.
        plan: Of the latent channels, from `plan_pruning`; None keeps all.
        width: Of the denoiser; None leaves it as wide.
        config: Says which pictures the denoiser's weights are measured on (training) and the
            reconstructions (test); None measures nothing.
        num_pictures: At most so many of each.

    Returns:
        The pruned model, and figures for its record: parameters, and PSNR where there are pictures.
    """
    same = replace(model, autoencoder=copy.copy(model.autoencoder))  # its config gets a record
    pruned = PrunedModel(None, same) if plan is None else prune(model, plan)
    splits = None if config is None else load_splits(model, config, needs_train=width is not None)
    if width is not None:
        batches = _batches(splits.train, num_pictures, config) if splits and config else None
        evidence = gather_evidence(pruned.model, width, batches)
        narrower, found = narrow_model(pruned.model, width, evidence, model)
        pruned = PrunedModel(plan, narrower, width_record(found, model))
    costs: dict[str, Any] = {
        "parameters_before": count_parameters(model),
        "parameters": count_parameters(pruned.model),
    }
    if splits is None or config is None or plan is None:
        return pruned, costs
    batches = _batches(splits.test, num_pictures, config)
    costs |= {
        "psnr_db_before": _psnr(model, batches),
        "psnr_db": _psnr(pruned.model, batches),
        "num_pictures": batches.num_pictures,
        "data": describe_pictures(config),
    }
    return pruned, costs


def _batches(pictures: Pictures, num_pictures: int, config: RunConfig) -> Batches:
    indices = torch.arange(min(num_pictures, len(pictures)))
    return Batches(pictures, indices, 32, config.evaluation.seed)


def _psnr(model: LoadedModel, batches: Batches) -> float:
    system = model.measured_system()
    whole = torch.eye(model.num_channels, dtype=torch.float64)
    same = LatentMap(whole, whole, torch.zeros(len(whole), dtype=torch.float64))
    return to_db(measure_maps(system, batches, [same])[0])


PADDING_MATTERS_DB = 0.5


def padding_note(plan: PrunePlan | None, costs: dict[str, Any]) -> str | None:
    """One line where the sliced model loses much more than the analysis said; None elsewhere."""
    if (
        "psnr_db" not in costs
        or plan is None
        or plan.psnr_db is None
        or plan.psnr_db_before is None
    ):
        return None
    measured = costs["psnr_db_before"] - costs["psnr_db"]
    more = measured - (plan.psnr_db_before - plan.psnr_db)
    if more < PADDING_MATTERS_DB:
        return None
    return (
        f"the sliced model loses {more:.1f} dB more than the analysis says: the zero padding of "
        "its decoder's first layer cannot hold all of the fill (docs/prune.md); "
        "`pelap recover` wins it back."
    )


def count_parameters(model: LoadedModel) -> int:
    """Of autoencoder and denoiser."""
    networks = (model.autoencoder, model.denoiser)
    return sum(
        p.numel() for network in networks if network is not None for p in network.parameters()
    )


def describe_pruned(
    plan: PrunePlan | None, width: dict[str, Any] | None, costs: dict[str, Any]
) -> str:
    """What is kept and removed, why, and what it costs."""
    lines = [] if plan is None else _describe_latents(plan, costs)
    if width is not None:
        lines += _describe_width(width)
    if "parameters" in costs:
        lines.append(f"{'parameters':24} {costs['parameters_before']:,} → {costs['parameters']:,}")
    return "\n".join(lines)


def _describe_latents(plan: PrunePlan, costs: dict[str, Any]) -> list[str]:
    lines = [f"{'latent channels':24} {plan.num_channels} → {plan.latent_map.num_kept}"]
    if plan.rotation == "none":
        lines.append(f"{'kept':24} {' '.join(map(str, plan.channels))}")
        lines.append(f"{'removed':24} {' '.join(map(str, plan.removed)) or 'none'}")
    lines.append(f"{'chosen by':24} {plan.criterion}, fill {plan.fill}")
    if plan.psnr_db is not None and plan.psnr_db_before is not None:
        lines.append(
            f"{'PSNR in the analysis':24} {plan.psnr_db_before:.2f} → {plan.psnr_db:.2f} dB"
        )
    if "psnr_db" in costs:
        lines.append(
            f"{'PSNR':24} {costs['psnr_db_before']:.2f} → {costs['psnr_db']:.2f} dB, "
            f"{costs['num_pictures']:,} pictures"
        )
    return lines


def _describe_width(width: dict[str, Any]) -> list[str]:
    lines = [
        f"{'MACs of a step':24} {width['macs_before']:,} → {width['macs']:,} "
        f"({width['macs'] / width['macs_before']:.2f})"
    ]
    lines += [
        f"{name.replace('_', ' '):24} {before} → {after}"
        for name, (before, after) in width["config"].items()
    ]
    lines.append(f"{'units chosen by':24} {width['criterion']}")
    lines += [
        f"{name + ' differs':24} {share:.1%} of its size"
        for name, share in width["differences"].items()
    ]
    return lines
