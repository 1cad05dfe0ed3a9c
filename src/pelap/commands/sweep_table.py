"""What a sweep found: each trial, mean and spread over the seeds of each grid point, the table."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pelap.commands.verb_settings import Result
from pelap.core.files import write_json, write_whole
from pelap.core.json_values import JsonObject
from pelap.pages import numbers
from pelap.pages.sweep_figure import draw_sweep
from pelap.pages.sweep_record import GridPoint, Spread, TrialResult

FIGURES = (
    "diffusion_loss",
    "reconstruction_psnr_db",
    "masked_reconstruction_mse_sum",
    "mask_mean",
    "active_channels",
)
"""What is taken from evaluation.json, beside everything under `quality`."""


@dataclass(frozen=True)
class SweepResult(Result):
    """All trials, and mean and spread over the seeds of each grid point."""

    preset: str
    grid: dict[str, list[str]]
    seeds: list[int]
    trials: list[TrialResult]
    points: list[GridPoint]

    @property
    def failed(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.status == "failed"]

    def describe(self) -> str:
        """Markdown: a row for each grid point with mean ± standard deviation, then what failed."""
        measured = dict.fromkeys(name for point in self.points for name in point.figures)
        header = [*self.grid, "trials", *measured, "verdict"]
        rows = [header, ["---"] * len(header)]
        for point in self.points:
            trials = sum(point.verdicts.values())
            verdicts = ", ".join(f"{n} {verdict}" for verdict, n in point.verdicts.items())
            cells = [_plus_minus(point.figures.get(name)) for name in measured]
            rows.append([*point.settings.values(), str(trials), *cells, verdicts])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines += [f"\nFailed: {trial.name}: {trial.error}" for trial in self.failed]
        return "\n".join(lines) + "\n"

    def figure(self) -> bytes | None:
        """Each measured figure over the grid; None where every trial failed."""
        has_figures = any(point.figures for point in self.points)
        return draw_sweep(self.grid, self.trials, self.points).png if has_figures else None

    def as_dict(self) -> JsonObject:
        """As in sweep.json, where a figure that is not finite is null."""
        return json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)


def chosen_figures(evaluation: JsonObject) -> dict[str, float]:
    """`FIGURES` and the quality metrics of an evaluation.json, the mean where it lists channels."""
    chosen = {name: evaluation[name] for name in FIGURES}
    figures = {n: statistics.fmean(v) if isinstance(v, list) else v for n, v in chosen.items()}
    return figures | {name: one["value"] for name, one in evaluation.get("quality", {}).items()}


def summarise(preset: str, grid: dict[str, list[str]], trials: list[TrialResult]) -> SweepResult:
    """The trials with a summary of each grid point."""
    seeds = list(dict.fromkeys(trial.seed for trial in trials))
    settings = dict.fromkeys(tuple(trial.settings.items()) for trial in trials)
    points = [_point(dict(pairs), trials) for pairs in settings]
    return SweepResult(preset, grid, seeds, trials, points)


def _point(settings: dict[str, str], trials: Sequence[TrialResult]) -> GridPoint:
    done = [t for t in trials if t.settings == settings and t.status == "done"]
    verdicts = [trial.verdict for trial in done]
    # A trial that was finished earlier may have fewer quality metrics.
    names = dict.fromkeys(name for trial in done for name in trial.figures)
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    figures = {n: summary([t.figures[n] for t in done if n in t.figures]) for n in names}
    return GridPoint(settings, counts, figures)


def summary(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and number of the values."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, None, len(values))
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), spread, len(values))


def _plus_minus(figure: Spread | None) -> str:
    if figure is None:
        return ""
    if not math.isfinite(figure.mean):
        return numbers.ABSENT
    mean = f"{figure.mean:.4g}"
    return mean if figure.std is None else f"{mean} ± {figure.std:.2g}"


def write_result(result: SweepResult, output: Path) -> None:
    """Write sweep.json, sweep.md and figures/sweep.png."""
    write_json(output / "sweep.json", result.as_dict(), indent=2)
    write_whole(output / "sweep.md", result.describe().encode())
    (output / "figures").mkdir(exist_ok=True)
    png = result.figure()
    if png is not None:
        write_whole(output / "figures" / "sweep.png", png)
