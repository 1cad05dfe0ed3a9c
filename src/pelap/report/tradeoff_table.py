"""The page's table: every figure of every model, and beside it how it relates to the unpruned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pelap.report.numbers import ABSENT
from pelap.report.tradeoff_names import cost_title, is_time, metric_title, write_cost, write_metric
from pelap.report.tradeoff_points import NOISE_LOSS, PSNR, TradeoffPoint, Value, higher_is_better


@dataclass(frozen=True)
class Cell:
    """A figure; below it, smaller, its interval and what it is relative to the unpruned one."""

    text: str
    notes: tuple[str, ...] = ()
    best: bool = False


ABSENT_CELL = Cell(ABSENT)


@dataclass(frozen=True)
class Row:
    """One model."""

    label: str
    role: str
    description: str
    cells: list[Cell]


@dataclass(frozen=True)
class TradeoffTable:
    """A row a model; header of the cells alone."""

    header: list[str]
    rows: list[Row]


def tradeoff_table(points: Sequence[TradeoffPoint], unpruned: TradeoffPoint) -> TradeoffTable:
    """Metrics, then costs; the best of each column is marked.

    Args:
        points: Rows, in this order.
        unpruned: What ratios are relative to.
    """
    metrics = list(dict.fromkeys(name for point in points for name in point.quality))
    costs = list(dict.fromkeys(name for point in points for name in point.cost))
    columns = [_metric_column(points, unpruned, name) for name in metrics]
    columns += [_cost_column(points, unpruned, name) for name in costs]
    header = [*map(metric_title, metrics), *(f"{cost_title(name)} ↓" for name in costs)]
    rows = [
        Row(point.label, point.role, point.description, [column[place] for column in columns])
        for place, point in enumerate(points)
    ]
    return TradeoffTable(header, rows)


def _metric_column(
    points: Sequence[TradeoffPoint], unpruned: TradeoffPoint, name: str
) -> list[Cell]:
    base = unpruned.quality.get(name)
    values = [point.quality.get(name) for point in points]

    def write(value: float) -> str:
        return write_metric(name, value)

    def notes(value: Value) -> tuple[str, ...]:
        if base is None or value is base or name == NOISE_LOSS:
            return _interval(value, write)
        if name == PSNR:
            return (*_interval(value, write), f"{value.mean - base.mean:+.2f} dB".replace("-", "−"))
        return (*_interval(value, write), _times(value.mean, base.mean))

    if name == NOISE_LOSS:  # of different latents: none is the best
        return [ABSENT_CELL if v is None else Cell(write(v.mean), notes(v)) for v in values]
    return _column(values, higher_is_better(name), write, notes)


def _cost_column(points: Sequence[TradeoffPoint], unpruned: TradeoffPoint, name: str) -> list[Cell]:
    base = unpruned.cost.get(name)

    def write(value: float) -> str:
        return write_cost(name, value)

    def notes(value: Value) -> tuple[str, ...]:
        if base is None or value is base:
            return ()
        return _interval(value, write) if is_time(name) else (_times(value.mean, base.mean),)

    return _column([point.cost.get(name) for point in points], False, write, notes)


def _column(
    values: Sequence[Value | None],
    higher: bool,
    write: Callable[[float], str],
    notes: Callable[[Value], tuple[str, ...]],
) -> list[Cell]:
    """The best is not marked where all are alike as written."""
    written = {write(value.mean): value.mean for value in values if value is not None}
    best = (max if higher else min)(written, key=lambda text: written[text])
    return [
        ABSENT_CELL
        if value is None
        else Cell(write(value.mean), notes(value), len(written) > 1 and write(value.mean) == best)
        for value in values
    ]


def _interval(value: Value, write: Callable[[float], str]) -> tuple[str, ...]:
    if value.low is None or value.high is None:
        return ()
    return (f"{write(value.low)} to {write(value.high)}",)


def _times(value: float, base: float) -> str:
    return f"× {value / base:.2f}" if base else ABSENT
