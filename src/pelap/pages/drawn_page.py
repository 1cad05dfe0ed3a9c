"""The page of models that are compared without pictures: what each draws, costs and lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pelap.measure.side_by_side_record import SideBySide
from pelap.pages.drawn_rows import rows_section
from pelap.pages.numbers import ABSENT
from pelap.pages.page import Cell, Items, Section, Table, Text, write_page

PAGE = "drawn.html"
HOW = """pelap prune MODEL --keep 8 --rotate decoder --denoiser-macs 0.55 --prompts FILE -o pruned
pelap recover pruned --teacher MODEL --prompts FILE --steps 1000 -o small
pelap compare MODEL small --prompts FILE"""
"""MODEL: any diffusers folder or hub id; FILE: a prompt a line, or the word classes."""


@dataclass(frozen=True)
class DrawnCost:
    """What a model costs."""

    name: str
    parameters: int | None
    """Of autoencoder and denoiser."""
    macs: int | None
    """Of a denoising step for one picture."""
    latent_bytes: int
    """Of a picture."""
    times_as_fast: Mapping[int, tuple[float, float, float]]
    """By batch size: median, least and greatest over the rounds; empty for the reference."""


def write_drawn(
    path: Path,
    drawn: SideBySide,
    costs: Sequence[DrawnCost],
    history: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> Path:
    """Write the page.

    Args:
        path: Of the page.
        drawn: The pictures, the reference's first.
        costs: Of each model, in that order.
        history: What was done to each.
        notes: How it was measured, a sentence each.
    """
    names = [cost.name for cost in costs]
    removed = [f"{name}: {step}" for name, steps in zip(names, history, strict=True)
               for step in steps]  # fmt: skip
    return write_page(
        path,
        "compare",
        " and ".join(names) if len(names) < 3 else f"{len(names)} models",
        [Text(lead(costs), "lead")],
        [
            rows_section(drawn),
            Section("What it costs", [_table(costs)]),
            Section("What was removed", [Items(removed)] * bool(removed)),
            Section("The same for a model of yours", [Text(HOW, "command")]),
            Section("How it was measured", [Items(notes)]),
        ],
    )


def lead(costs: Sequence[DrawnCost]) -> str:
    """The gain of the fastest, in a sentence."""
    reference, *others = costs
    timed = [cost for cost in others if cost.times_as_fast]
    if not timed:
        return f"{reference.name} draws."
    best = max(timed, key=lambda cost: _largest(cost)[1][0])
    batch, (ratio, *_) = _largest(best)
    share = "" if not (best.macs and reference.macs) else (
        f" with {best.macs / reference.macs:.0%} of the arithmetic of a step".replace("%", " %")
    )  # fmt: skip
    return (
        f"{best.name} draws {ratio:.2f} times as many pictures in the same time as "
        f"{reference.name}, {batch} at a time,{share} and latents of {best.latent_bytes:,} in "
        f"place of {reference.latent_bytes:,} bytes."
    )


def describe_costs(costs: Sequence[DrawnCost]) -> list[str]:
    """For a terminal: the sentence of the page, and every ratio."""
    lines = [lead(costs)]
    for cost in costs[1:]:
        lines += [
            f"  {cost.name}, {batch} at a time: {ratio:.2f}× ({least:.2f} to {greatest:.2f})"
            for batch, (ratio, least, greatest) in cost.times_as_fast.items()
        ]
    return lines


def _largest(cost: DrawnCost) -> tuple[int, tuple[float, float, float]]:
    """The largest batch and its ratios."""
    batch = max(cost.times_as_fast)
    return batch, cost.times_as_fast[batch]


def _table(costs: Sequence[DrawnCost]) -> Table:
    reference = costs[0]
    batches = sorted({batch for cost in costs for batch in cost.times_as_fast})
    header = ["model", "parameters", "MACs a step", "bytes of a latent"]
    header += [f"throughput, {batch} at a time" for batch in batches]
    rows = []
    for cost in costs:
        row = [Cell(cost.name)]
        row += [
            _counted(cost.parameters, reference.parameters),
            _counted(cost.macs, reference.macs),
            _counted(cost.latent_bytes, reference.latent_bytes),
        ]
        row += [_ratio(cost, batch, cost is reference) for batch in batches]
        rows.append(row)
    return Table(header, rows, "figures")


def _counted(count: int | None, before: int | None) -> Cell:
    if count is None:
        return Cell(ABSENT)
    share = () if not before or count == before else (f"{count / before:.0%}".replace("%", " %"),)
    return Cell(f"{count:,}", share)


def _ratio(cost: DrawnCost, batch: int, is_reference: bool) -> Cell:
    if is_reference:
        return Cell("1×")
    ratio, least, greatest = cost.times_as_fast[batch]
    return Cell(f"{ratio:.2f}×", (f"{least:.2f} to {greatest:.2f}",))
