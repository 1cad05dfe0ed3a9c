"""Models compared without pictures: what they draw from the same noise, and what that costs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pelap.commands.bench_sampling import bench_sample
from pelap.commands.compare_measure import TradeoffSettings
from pelap.commands.compare_pictures import RowSettings, draw_side_by_side
from pelap.commands.compared_models import ComparedModel
from pelap.commands.verb_settings import Result
from pelap.core.errors import ConfigError
from pelap.core.files import write_json
from pelap.core.json_values import JsonObject
from pelap.core.progress import track
from pelap.measure.bench_record import ModelCost, Ratio
from pelap.measure.machine import machine, versions
from pelap.measure.side_by_side_record import SideBySide
from pelap.models.loaded import LoadedModel
from pelap.pages.drawn_page import PAGE, DrawnCost, describe_costs, write_drawn
from pelap.pages.drawn_rows import describe_rows
from pelap.pruning.pruning_card import describe_entry

RESULT = "drawn.json"


@dataclass(frozen=True)
class DrawnComparison(Result):
    """Models beside each other by what they draw and what it costs; no picture was given."""

    page: Path
    """Self-contained HTML."""
    drawn: SideBySide
    """The same prompts, classes or seeds by each, the reference first."""
    costs: tuple[DrawnCost, ...]
    """Of each model, in the same order."""
    history: tuple[tuple[str, ...], ...]
    """What pelap did to each, a sentence a step."""
    settings: TradeoffSettings

    def describe(self) -> str:
        """How many times as fast each is, how far its pictures are, then where the page is."""
        return "\n".join([*describe_costs(self.costs), *describe_rows(self.drawn), str(self.page)])

    def as_dict(self) -> JsonObject:
        """What drawn.json holds."""
        return {
            "side_by_side": self.drawn.as_dict(),
            "costs": [asdict(cost) for cost in self.costs],
            "history": [list(steps) for steps in self.history],
            "settings": asdict(self.settings),
            "machine": machine(),
            "versions": versions(),
        }


def compare_drawn(
    subjects: Sequence[ComparedModel], output: Path, settings: TradeoffSettings, rows: RowSettings
) -> DrawnComparison:
    """Draw, time and write drawn.html and drawn.json.

    Args:
        subjects: Opened models, the reference first.
        output: Folder, made if need be.
        settings: How samplings are timed.
        rows: What is drawn.

    Raises:
        ConfigError: If nothing can be drawn without pictures.
        ModelError: If a pipeline cannot be loaded or called.
    """
    models = [subject.model for subject in subjects]
    drawn, reason = draw_side_by_side(models, None, rows, settings.seed, None)
    if drawn is None:
        raise ConfigError(f"{models[0].name} names no pictures: give --data.source. {reason}")
    costs = _measure_costs(models, settings)
    history = tuple(tuple(map(describe_entry, model.history)) for model in models)
    output.mkdir(parents=True, exist_ok=True)
    page = write_drawn(output / PAGE, drawn, costs, history, _notes(settings))
    result = DrawnComparison(page, drawn, costs, history, settings)
    write_json(output / RESULT, result.as_dict())
    return result


def _measure_costs(
    models: Sequence[LoadedModel], settings: TradeoffSettings
) -> tuple[DrawnCost, ...]:
    """Counts of each; times of each but the first in turn with the first."""
    reference, *others = models
    benches = [
        bench_sample(model, reference, settings.bench())
        for model in track(others, "Timing whole samplings")
    ] or [bench_sample(reference, None, settings.bench())]
    first = next(cost for cost in benches[0].models if cost.name == reference.name)
    costs = [_cost(first, ())]
    costs += [_cost(bench.models[0], bench.ratios or ()) for bench in benches if bench.ratios]
    return tuple(costs)


def _cost(cost: ModelCost, ratios: Sequence[Ratio]) -> DrawnCost:
    faster = {row.batch_size: (row.ratio, row.ratio_min, row.ratio_max) for row in ratios}
    return DrawnCost(
        cost.name, cost.parameters["total"], cost.macs["denoiser_step"], cost.latent_bytes, faster
    )


def _notes(settings: TradeoffSettings) -> list[str]:
    return [
        f"Time: whole samplings ({settings.steps} steps, decoding included) in alternation with "
        f"the first model, relative to it; the median of {settings.rounds} rounds, and their least "
        f"and greatest. Machine: {machine()}.",
        "Bytes of a latent: in float32. MACs: multiply-accumulates of one denoising step for one "
        "picture.",
        "No pictures were given, so no PSNR and no Fréchet distance was measured: give "
        "--data.source for those.",
    ]
