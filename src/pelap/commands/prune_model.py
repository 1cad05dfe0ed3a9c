"""A model in; an ordinary, smaller diffusers model out, with what it cost."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pelap.analysis.analysis_record import LEARNED_STEPS, Analysis, AnalysisSettings
from pelap.analysis.decoding import measure_maps
from pelap.commands.analyze_model import (
    AnalysisResult,
    analysis_settings,
    analyze_model,
    read_analysis,
)
from pelap.commands.any_model import (
    AnyModel,
    AnyPictures,
    ModelResult,
    as_model,
    as_pictures,
    told_nothing,
)
from pelap.commands.prune_words import describe_latents, describe_tokens, describe_width
from pelap.config.run_config import RunConfig
from pelap.core.devices import torch_device
from pelap.core.digests import digest
from pelap.core.errors import ConfigError
from pelap.core.json_values import JsonObject
from pelap.families.conditioned import Condition
from pelap.families.registry import autoencoder_ports
from pelap.measure.counts import num_parameters
from pelap.measure.denoiser_fidelity import DenoiserFidelity, compare_denoisers
from pelap.measure.encoded_batches import Batches
from pelap.measure.noise_levels import to_db
from pelap.method.latent_map import Fill, LatentMap, Rotation
from pelap.models.conditions import check_told, find_conditions
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, load_splits
from pelap.models.pipeline_limits import check_latents_free
from pelap.models.saving import ChangedModel
from pelap.pruning import apply
from pelap.pruning.apply import PrunedModel, plan_pruning, pruning_record
from pelap.pruning.latents.latent_plan import PrunePlan, PruneRequest, check_request
from pelap.pruning.narrowing import (
    NEED_SLOPES,
    check_width,
    find_judge,
    gather_evidence,
    narrow_model,
    width_record,
)
from pelap.pruning.pruning_card import describe_pruning
from pelap.pruning.pruning_record import PruningCosts, WidthRecord
from pelap.pruning.tokens.fewer_tokens import MERGED, check_tokens, merge_model
from pelap.pruning.width.width_plan import WidthRequest

PADDING_MATTERS_DB = 0.5


@dataclass(frozen=True)
class Pruned(ModelResult):
    """A pruned model, and what that cost; of a dry run the plan alone."""

    plan: PrunePlan | None
    """Of the latent channels; None where they all stay."""
    width: WidthRecord | None
    """Of the denoiser: what it was and is; None where it stays as wide."""
    costs: PruningCosts
    """Parameters before and after, and PSNR in dB where there were pictures."""
    pruned: PrunedModel | None
    """The networks; None where nothing was sliced."""

    @property
    def note(self) -> str | None:
        """What the analysis did not foresee, in one line: that much more is lost."""
        plan, costs = self.plan, self.costs
        if plan is None or "psnr_db" not in costs or "psnr_db_before" not in costs:
            return None
        if plan.psnr_db is None or plan.psnr_db_before is None:
            return None
        measured = costs["psnr_db_before"] - costs["psnr_db"]
        more = measured - (plan.psnr_db_before - plan.psnr_db)
        if more < PADDING_MATTERS_DB:
            return None
        return (
            f"the sliced model loses {more:.1f} dB more than the analysis says: the zero padding "
            "of its decoder's first layer cannot hold all of the fill (docs/prune.md); "
            "`pelap recover` wins it back."
        )

    def describe(self) -> str:
        """What is kept and removed, why, and what it costs."""
        plan, width, costs = self.plan, self.width, self.costs
        tokens = None if self.pruned is None else self.pruned.tokens
        lines = [] if plan is None else describe_latents(plan, costs)
        lines += [] if width is None else describe_width(width)
        lines += [] if tokens is None else describe_tokens(tokens)
        if "denoiser" in costs:
            lines += DenoiserFidelity(**costs["denoiser"]).describe()
        if "parameters" in costs and "parameters_before" in costs:
            before, after = costs["parameters_before"], costs["parameters"]
            lines.append(f"{'parameters':24} {before:,} → {after:,}")
        return "\n".join(lines)

    def as_dict(self) -> JsonObject:
        """As in the history of the pruned model; of a dry run, its words."""
        if self.pruned is None:
            return {"plan": self.describe()}
        return pruning_record(self.pruned, self.costs)

    def change(self) -> tuple[LoadedModel, ChangedModel]:
        """The model before this pruning was noted, and what takes the place of its networks."""
        if self.pruned is None:
            raise ConfigError("This is the plan of a dry run: prune without dry_run first.")
        model = self.pruned.model
        record = pruning_record(self.pruned, self.costs)
        card = describe_pruning(model.name, self.plan, record, model.history)
        return model, ChangedModel(
            model.autoencoder,
            model.denoiser,
            card,
            dict(record),
            {},
            keeps_autoencoder=self.plan is None,
        )


def prune(
    model: AnyModel,
    pictures: AnyPictures = None,
    *,
    keep: int | Sequence[int] | None = None,
    max_psnr_drop: float | None = None,
    criterion: str | None = None,
    fill: Fill | None = None,
    rotate: Rotation = "none",
    tokens: int | None = None,
    denoiser_macs: float | None = None,
    denoiser_latency: float | None = None,
    denoiser_widths: Sequence[int] | None = None,
    denoiser_criterion: str | None = None,
    analysis: Analysis | AnalysisResult | str | Path | None = None,
    unconditional: bool = False,
    dry_run: bool = False,
    num_pictures: int | None = AnalysisSettings.num_pictures,
    **settings: Any,
) -> Pruned:
    """Remove latent channels, and width and tokens of the denoiser, for real.

        small = pelap.prune(model, keep=2, analysis=analysis)
        small.pipeline()  # a stock DiffusionPipeline

    Args:
        model: Left as it is.
        pictures: For an analysis made now, the denoiser's evidence and the PSNR; a run's own by
            default, and none for another model.
        keep: How many latent channels, or which.
        max_psnr_drop: Keep the fewest that lose at most so many dB.
        criterion: Who chooses; the best one measured by default, or "random".
        fill: What stands in for removed channels; linear where it can be folded.
        rotate: Change of basis first.
        tokens: Make one token of so many, of a transformer: 4.
        denoiser_macs: Narrow the denoiser to this share of its multiply-accumulates, in (0, 1).
        denoiser_latency: Narrow it to this share of a step's time, measured here.
        denoiser_widths: Of each level, or heads and layers.
        denoiser_criterion: Which units stay: random, magnitude, taylor or diff_pruning.
        analysis: Of this model (from `analyze`, or its file); otherwise one is made if need be.
        unconditional: Run a denoiser that wants text or a class on an empty prompt, or on none.
        dry_run: Slice and measure nothing that the plan does not need.
        num_pictures: At most so many for each of these.
        **settings: Further fields of `AnalysisSettings`; `seed` is also that of random choices.

    Returns:
        The pruned model with the plan and its costs.

    Raises:
        ConfigError: If nothing is to be removed, or the wish contradicts itself or the model.
        ModelError: If a class is not supported.
        DataError: If pictures cannot be read.
    """
    chosen = analysis_settings({"num_pictures": num_pictures, **settings})
    channels = None if keep is None or isinstance(keep, int) else tuple(sorted(keep))
    number = keep if isinstance(keep, int) else None
    latents = PruneRequest(channels, number, max_psnr_drop, criterion, fill, rotate, chosen.seed)
    widths = None if denoiser_widths is None else tuple(denoiser_widths)
    width = WidthRequest(denoiser_macs, denoiser_latency, widths, denoiser_criterion, chosen.seed)
    changes_denoiser = width.is_asked() or tokens is not None
    if not latents.is_asked() and not changes_denoiser:
        raise ConfigError(
            "Say what to remove: --keep, --max-psnr-drop, --tokens or --denoiser-macs."
        )
    model = as_model(model)
    has_pictures = pictures is not None or model.config is not None
    _check_requests(model, latents, width, has_pictures)
    if tokens is not None:
        check_tokens(model, tokens, number if channels is None else len(channels))
    config = as_pictures(model, pictures) if has_pictures else None
    if unconditional:
        model = told_nothing(model, config)
    if config is not None and width.is_asked() and width.criterion in (None, *NEED_SLOPES):
        way_on = "; --denoiser-criterion magnitude needs no pictures"
        check_told(model, load_splits(model, config), way_on)
    plan = None
    if latents.is_asked():
        evidence = _find_analysis(model, latents, config, analysis, chosen)
        plan = plan_pruning(model, latents, evidence)
    if dry_run and not changes_denoiser:
        return Pruned(plan, None, {}, None)
    wanted = width if width.is_asked() else None
    pruned, costs = prune_model(
        model, plan, wanted, config, num_pictures, fewer_tokens=tokens is not None
    )
    return Pruned(plan, pruned.width, {} if dry_run else costs, None if dry_run else pruned)


def _check_requests(
    model: LoadedModel, latents: PruneRequest, width: WidthRequest, has_pictures: bool
) -> None:
    """Refuse what cannot be removed of this model before anything long begins."""
    model.check()
    if latents.is_asked():
        check_latents_free(model)
        check_request(latents, model.num_channels, autoencoder_ports(model.autoencoder))
    if width.is_asked():
        check_width(model, width, has_pictures)


def _find_analysis(
    model: LoadedModel,
    request: PruneRequest,
    config: RunConfig | None,
    given: Analysis | AnalysisResult | str | Path | None,
    settings: AnalysisSettings,
) -> Analysis | None:
    """What was given, or an analysis made now; None if the request needs none."""
    if given is not None:
        analysis = read_analysis(Path(given)) if isinstance(given, str | Path) else given
        analysis = analysis.analysis if isinstance(analysis, AnalysisResult) else analysis
        if analysis.model_digest not in (None, digest(model.autoencoder)):
            raise ConfigError(
                f"The analysis is of another autoencoder than {model.name}'s (of {analysis.name}, "
                "or of an earlier state): analyse this one first."
            )
        return analysis
    if config is None or not (request.needs_analysis() or request.fill is None):
        return None
    settings = replace(settings, fill=request.fill or "linear")
    if request.criterion == "learned" and settings.learned_steps is None:
        settings = replace(settings, learned_steps=LEARNED_STEPS)
    rotation = None
    if request.rotation != "none" and request.num_kept is not None:
        rotation = (request.rotation, request.num_kept)
    return analyze_model(model, config, settings, rotation)


def prune_model(
    model: LoadedModel,
    plan: PrunePlan | None,
    width: WidthRequest | None,
    config: RunConfig | None,
    num_pictures: int | None,
    *,
    fewer_tokens: bool = False,
) -> tuple[PrunedModel, PruningCosts]:
    """Remove channels, width and tokens, and measure what that costs.

    Args:
        model: Left as it is.
        plan: Of the latent channels, from `plan_pruning`; None keeps all.
        width: Of the denoiser; None leaves it as wide.
        config: Says which pictures the denoiser's weights are measured on (training) and the
            reconstructions (test); None measures nothing.
        num_pictures: At most so many of each.
        fewer_tokens: Whether patches get larger.

    Returns:
        The pruned model, and figures for its record: parameters, and PSNR where there are pictures.
    """
    pruned = PrunedModel(None, model) if plan is None else apply.prune(model, plan)
    measured = None if config is None else _measured_on(model, config, num_pictures)
    subject, batches = pruned.model, None
    if measured is not None:
        subject, batches = measured.tell(subject), measured.train
    if width is not None:
        evidence = gather_evidence(subject, width, batches)
        judge = find_judge(subject, batches)
        narrower, found = narrow_model(pruned.model, width, evidence, model, judge)
        pruned = PrunedModel(plan, narrower, width_record(found, model))
    if fewer_tokens:
        judge = find_judge(subject, batches, MERGED)
        merged, record = merge_model(pruned.model, model, judge)
        pruned = replace(pruned, model=merged, tokens=record)
    costs: PruningCosts = {
        "parameters_before": _parameters(model),
        "parameters": _parameters(pruned.model),
    }
    return pruned, costs if measured is None else {**costs, **_costs(model, pruned, plan, measured)}


@dataclass(frozen=True)
class _Measured:
    """Pictures, and what the denoiser is told of them."""

    train: Batches
    test: Batches
    condition: Condition | None
    data: str

    def tell(self, model: LoadedModel) -> LoadedModel:
        """The model with the empty condition, where there is one."""
        return model if self.condition is None else replace(model, condition=self.condition)


def _measured_on(model: LoadedModel, config: RunConfig, num_pictures: int | None) -> _Measured:
    splits, seed = load_splits(model, config), config.evaluation.seed
    both = (splits.train, splits.test)
    first = [torch.arange(len(pictures))[:num_pictures] for pictures in both]
    told_model, told = find_conditions(model, splits, config.data.size, *first)
    train, test = (
        Batches(pictures, indices, 32, seed, conditions)
        for pictures, indices, conditions in zip(both, first, told or (None, None), strict=True)
    )
    return _Measured(train, test, told_model.condition, describe_pictures(config, splits))


def _costs(
    model: LoadedModel, pruned: PrunedModel, plan: PrunePlan | None, measured: _Measured
) -> PruningCosts:
    """What the decoder and the denoiser lose."""
    costs: PruningCosts = {}
    if plan is not None:
        costs["psnr_db_before"] = _psnr(model, measured.test)
        costs["psnr_db"] = _psnr(pruned.model, measured.test)
        costs["num_pictures"] = measured.test.num_pictures
        costs["data"] = measured.data
    encode = torch.eye(model.num_channels) if plan is None else plan.latent_map.encode
    fidelity = compare_denoisers(
        measured.tell(model), measured.tell(pruned.model), encode, measured.test
    )
    return costs if fidelity is None else {**costs, "denoiser": asdict(fidelity)}


def _psnr(model: LoadedModel, batches: Batches) -> float:
    system = model.measured_system(torch_device())
    whole = torch.eye(model.num_channels, dtype=torch.float64)
    same = LatentMap(whole, whole, torch.zeros(len(whole), dtype=torch.float64))
    return to_db(measure_maps(system, batches, [same])[0])


def _parameters(model: LoadedModel) -> int:
    return num_parameters(model.autoencoder) + num_parameters(model.denoiser)
