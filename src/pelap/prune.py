"""`pelap prune`: a model in; an ordinary, smaller diffusers model out, with what it cost."""

from pathlib import Path
from typing import Any

import torch

from pelap.analysis.batches import Batches
from pelap.analysis.decoding import measure_maps, to_db
from pelap.analysis.results import Analysis, AnalysisSettings
from pelap.analyze import analyze_model, read_analysis
from pelap.config import RunConfig
from pelap.latent import LatentMap
from pelap.model_pictures import describe_pictures, load_splits
from pelap.models import LoadedModel
from pelap.networks.ports import autoencoder_ports
from pelap.pruning.apply import PrunedModel, prune
from pelap.pruning.plan import PrunePlan, PruneRequest, check_request


def check_pruning(model: LoadedModel, request: PruneRequest) -> None:
    """Refuse what cannot work before anything long begins; see `make_plan` for the errors."""
    model.check()
    check_request(request, model.num_channels, autoencoder_ports(model.autoencoder))


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
    model: LoadedModel, plan: PrunePlan, config: RunConfig | None, num_pictures: int
) -> tuple[PrunedModel, dict[str, Any]]:
    """Remove channels and measure what that costs.

    Args:
        model: Left as it is.
        plan: From `plan_pruning`.
        config: Says on which test pictures reconstructions are measured; None measures nothing.
        num_pictures: At most so many of them.

    Returns:
        The pruned model, and figures for its record: parameters, and PSNR where there are pictures.
    """
    pruned = prune(model, plan)
    costs: dict[str, Any] = {
        "parameters_before": count_parameters(model),
        "parameters": count_parameters(pruned.model),
    }
    if config is None:
        return pruned, costs
    pictures = load_splits(model, config, needs_train=False).test
    indices = torch.arange(min(num_pictures, len(pictures)))
    batches = Batches(pictures, indices, 32, config.evaluation.seed)
    costs |= {
        "psnr_db_before": _psnr(model, batches),
        "psnr_db": _psnr(pruned.model, batches),
        "num_pictures": len(indices),
        "data": describe_pictures(config),
    }
    return pruned, costs


def _psnr(model: LoadedModel, batches: Batches) -> float:
    system = model.measured_system()
    whole = torch.eye(model.num_channels, dtype=torch.float64)
    same = LatentMap(whole, whole, torch.zeros(len(whole), dtype=torch.float64))
    return to_db(measure_maps(system, batches, [same])[0])


PADDING_MATTERS_DB = 0.5


def padding_note(plan: PrunePlan, costs: dict[str, Any]) -> str | None:
    """One line where the sliced model loses much more than the analysis said; None elsewhere."""
    if "psnr_db" not in costs or plan.psnr_db is None or plan.psnr_db_before is None:
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


def describe_plan(plan: PrunePlan, costs: dict[str, Any]) -> str:
    """What is kept and removed, why, and what it costs."""
    kept = plan.latent_map.num_kept
    lines = [f"{'latent channels':24} {plan.num_channels} → {kept}"]
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
    if "parameters" in costs:
        lines.append(f"{'parameters':24} {costs['parameters_before']:,} → {costs['parameters']:,}")
    return "\n".join(lines)
