"""Make a model's denoiser narrower: gather the evidence, choose, rebuild, and say what was done."""

from dataclasses import asdict, replace
from functools import partial

import torch

from pelap.analysis.taylor import measure_slopes, measure_timestep_losses
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.families.registry import config_of
from pelap.measure.encoded_batches import Batches
from pelap.measure.macs import count_denoiser_macs
from pelap.models.loaded import LoadedModel
from pelap.models.pipeline_limits import check_width_free
from pelap.pruning.pruned_units import after_width, kept_units
from pelap.pruning.pruning_record import StepTimeRecord, WidthRecord
from pelap.pruning.width.judging import PredictionJudge
from pelap.pruning.width.latency import latency_ratio
from pelap.pruning.width.shapes import find_freedom
from pelap.pruning.width.step_time import LEAST_MACS, StepTime
from pelap.pruning.width.width_choice import NarrowDenoiser, find_layout
from pelap.pruning.width.width_criteria import LOSS_SHARE, WidthEvidence
from pelap.pruning.width.width_plan import Judge, WidthRequest, narrow

NEED_SLOPES = ("taylor", "diff_pruning")


def check_width(model: LoadedModel, request: WidthRequest, has_pictures: bool) -> None:
    """Refuse what cannot work before anything long begins.

    Raises:
        ConfigError: Names the option.
        ModelError: If the width of this class, or of this variant of it, cannot be pruned, or a
            part of the pipeline is in the way.
    """
    request.check()
    if model.denoiser is None:
        raise ConfigError(f"{model.name} has no denoiser whose width could be pruned.")
    if request.criterion in NEED_SLOPES and not has_pictures:
        raise ConfigError(
            f"--denoiser-criterion {request.criterion} needs pictures: give --data.source."
        )
    check_width_free(model)
    find_freedom(model.denoiser)
    find_layout(model.denoiser)


def gather_evidence(
    model: LoadedModel, request: WidthRequest, batches: Batches | None
) -> WidthEvidence:
    """What the criterion of the request needs; slopes only where the denoiser can be run.

    Args:
        model: With a denoiser.
        request: Names the criterion, or none.
        batches: Pictures to run it on, or None.
    """
    assert model.denoiser is not None
    evidence = WidthEvidence(dict(model.denoiser.state_dict()), seed=request.seed)
    wants_slopes = request.criterion is None or request.criterion in NEED_SLOPES
    if batches is None or not wants_slopes or model.system().denoiser is None:
        return evidence
    system = model.measured_system(torch_device())
    num_timesteps = len(system.scheduler.alphas_cumprod)
    if request.criterion == "diff_pruning":
        loud = measure_timestep_losses(system, batches).at_least(LOSS_SHARE)
        slopes = measure_slopes(system, batches, loud, "Measuring the denoiser's weights")
        return replace(evidence, loud_slopes=slopes)
    every = torch.arange(num_timesteps)
    slopes = measure_slopes(system, batches, every, "Measuring the denoiser's weights")
    return replace(evidence, slopes=slopes)


def find_judge(
    model: LoadedModel, batches: Batches | None, merged: int = 1
) -> PredictionJudge | None:
    """What refits smaller denoisers and chooses among them; None where it cannot be run.

    Args:
        model: With a denoiser.
        batches: Pictures to run it on, or None.
        merged: How many of its tokens are one of theirs.
    """
    if batches is None or batches.num_pictures < 2 or model.system().denoiser is None:
        return None
    return PredictionJudge(model, batches, merged)


def narrow_model(
    model: LoadedModel,
    request: WidthRequest,
    evidence: WidthEvidence,
    original: LoadedModel,
    judge: Judge | None = None,
) -> tuple[LoadedModel, NarrowDenoiser]:
    """The model with a narrower denoiser.

    Args:
        model: Left as it is; latent channels may have been removed from it.
        request: What is wanted.
        evidence: Of its denoiser.
        original: What the shares of the request are of.
        judge: From `find_judge`.

    Raises:
        ConfigError: If the request cannot be met.
        ModelError: If the class is not supported.
    """
    assert model.denoiser is not None
    assert original.denoiser is not None
    macs = count_denoiser_macs(original.denoiser)
    timer = partial(latency_ratio, original=original.denoiser)
    runs_here = judge is not None and macs >= LEAST_MACS
    one = partial(timer, batch_size=1) if runs_here else None
    found = narrow(model.denoiser, request, evidence, macs, timer, judge, one)
    units = after_width(kept_units(model), model.denoiser, found)
    return replace(model, denoiser=found.denoiser, kept_units=units), found


def width_record(narrower: NarrowDenoiser, original: LoadedModel) -> WidthRecord:
    """What was done, for the history, the card and JSON."""
    config = config_of(original.denoiser)
    record: WidthRecord = {
        "criterion": narrower.criterion,
        "macs_before": count_denoiser_macs(original.denoiser),  # type: ignore[arg-type]
        "macs": narrower.shape.macs,
        "kept_score": narrower.kept_score,
        "config": {
            name: [config.get(name), value]
            for name, value in narrower.shape.updates.items()
            if config.get(name) != value
        },
        "differences": narrower.differences,
        "features": {name: list(entry) for name, entry in narrower.features.items()},
    }
    if narrower.candidates:
        record["candidates"] = [
            {**asdict(one), "widths": list(one.widths)} for one in narrower.candidates
        ]
    if narrower.nearest is not None:
        record["nearest"] = [
            None if shape is None else {"widths": list(shape.widths), "macs": shape.macs}
            for shape in narrower.nearest
        ]
    if narrower.below_target:
        record["below_target"] = True
    if narrower.time is not None:
        record["time"] = _time_record(narrower.time)
    return record


def _time_record(time: StepTime) -> StepTimeRecord:
    record: StepTimeRecord = {"share": time.share, "is_less": time.is_less, "nearest": None}
    if time.nearest is not None:
        shape = time.nearest.shape
        widths, share = list(shape.widths), time.nearest.share
        record["nearest"] = {"widths": widths, "macs": shape.macs, "share": share}
    return record
