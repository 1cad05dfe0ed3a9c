"""The page about a trade-off between quality and cost: what its sections hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pelap.pages.canvas import drawing
from pelap.pages.numbers import ABSENT, listed
from pelap.pages.page import Card, Cell, Items, PartGroup, Section, Table, Text, write_page
from pelap.pages.tradeoff_figures import draw_tradeoff, shared_costs
from pelap.pages.tradeoff_points import (
    FEWEST,
    MARK,
    NOISE_LOSS,
    NOT_COMPARABLE,
    NOT_MEASURED,
    PSNR,
    Role,
    TradeoffPoint,
    Value,
    cost_title,
    higher_is_better,
    is_time,
    metric_name,
    metric_title,
    write_figure,
    write_value,
)
from pelap.pages.tradeoff_words import (
    chance_sentence,
    compare_with_chance,
    cost_sentence,
    domination_sentences,
    lead,
    main_metric,
    metrics_of,
    missing_sentences,
)

PAGE = "tradeoff.html"


@dataclass(frozen=True)
class Findings:
    """What the page says in words."""

    lead: str
    sentences: list[str]


def find(points: Sequence[TradeoffPoint], unpruned: TradeoffPoint) -> Findings:
    """Who beats chance, what each pruned model costs, and who is dominated.

    Args:
        points: The models.
        unpruned: The one that the others are held against.
    """
    metric = main_metric(points)
    comparisons, by_chance = compare_with_chance(points, metric), "random" in _roles_of(points)
    sentences = [chance_sentence(c, metric) for c in comparisons if by_chance]
    sentences += [
        cost_sentence(comparison.pruned, unpruned, metric)
        for comparison in comparisons
        if comparison.pruned is not unpruned
    ]
    sentences += [*domination_sentences(points, metric), *missing_sentences(points)]
    first = lead(comparisons, metric)
    if comparisons and not by_chance and sentences:  # then what it costs is the news
        first = sentences.pop(0)
    return Findings(first, sentences)


def _roles_of(points: Sequence[TradeoffPoint]) -> set[Role]:
    """Those that are there."""
    return {point.role for point in points}


def write_tradeoff(
    points: Sequence[TradeoffPoint],
    notes: Sequence[str],
    output: Path,
    more: Sequence[Section] = (),
) -> Path:
    """Write output/tradeoff.html (self-contained) and output/figures/*.png.

    Everything is drawn before the first file is written.

    Args:
        points: The first unpruned one, or else the first, is what the others are held against.
        notes: How the figures were measured, one sentence each.
        output: Folder, made if need be.
        more: Sections that stand between the findings and the figures.

    Returns:
        Path of the page.
    """
    unpruned = next((point for point in points if point.role == "unpruned"), points[0])
    findings = find(points, unpruned)
    first, *others = draw_cards(points)
    legend = (
        "Bold: the best of its column. Below a figure its interval; with × or dB, what it is "
        f"beside {unpruned.label}."
    )
    if any(not value.is_comparable for point in points for value in point.quality.values()):
        legend += f" {MARK} {NOT_COMPARABLE}: a Fréchet distance of fewer than {FEWEST:,} pictures."
    return write_page(
        output / PAGE,
        "trade-off",
        f"{len(points)} models: quality against cost" if len(points) > 1 else unpruned.label,
        [Text(findings.lead, "lead")],
        [
            Section("What the figures say", [Items(findings.sentences)] * bool(findings.sentences)),
            *more,
            Section(
                "Quality against cost",
                [first, *(PartGroup(card.title, [card], folded=True) for card in others)],
            ),
            Section("All figures", [tradeoff_table(points, unpruned), Text(legend, "note")]),
            Section("How it was measured", [Items(notes)]),
        ],
    )


def draw_cards(points: Sequence[TradeoffPoint]) -> list[Card]:
    """A figure for each metric, the main one first."""
    main = main_metric(points)
    hidden = NOISE_LOSS if main != PSNR else None  # distances say more of the denoiser
    others = [
        name
        for name in metrics_of(points)
        if name not in (main, hidden) and all(p.quality[name].is_comparable for p in points)
    ]
    return [_card(points, name) for name in (main, *others)]


def _card(points: Sequence[TradeoffPoint], metric: str) -> Card:
    costs = ", ".join(map(cost_title, shared_costs(points)))
    better = "higher" if higher_is_better(metric) else "lower"
    figures = "; ".join(f"{point.label} {point.quality[metric].mean:.4g}" for point in points)
    caption = (
        f"{metric_name(metric)}: {better} is better; left is cheaper. Dotted lines cross at the "
        "unpruned model. Bars: the intervals of the table."
    )
    if sum(point.is_ranked(metric) for point in points) > 1:
        caption += (
            " What lies on the grey line is beaten by no other model at that cost or less; "
            "everything in the shade is."
        )
    if unranked := [point.label for point in points if not point.is_ranked(metric)]:
        why = f"{metric_name(metric)} says nothing of a changed denoiser"
        caption += f" Pale and outside the ranking, as {why}: {listed(unranked)}."
    if metric == NOISE_LOSS:
        caption += " Noise losses of different latents are no match for each other."
    return Card(
        f"tradeoff_{metric}",
        metric_title(metric),
        caption,
        f"{metric_name(metric)} against {costs}: {figures}.",
        drawing(lambda: draw_tradeoff(points, metric, columns=2)),
        narrow=drawing(lambda: draw_tradeoff(points, metric, columns=1)),
    )


def tradeoff_table(points: Sequence[TradeoffPoint], unpruned: TradeoffPoint) -> Table:
    """Metrics, then costs; the best of each column is marked.

    Args:
        points: Rows, in this order.
        unpruned: What ratios are relative to.
    """
    metrics = dict.fromkeys(name for point in points for name in point.quality)
    costs = dict.fromkeys(name for point in points for name in point.cost)
    names = [
        Cell(
            p.label,
            (f"{p.role}: {p.description}" if p.description else p.role,)
            + ((NOT_MEASURED,) if p.is_unknown else ()),
        )
        for p in points
    ]
    columns = [
        _column(name, [p.figures.get(name) for p in points], unpruned.figures.get(name))
        for name in (*metrics, *costs)
    ]
    header = ["model", *map(metric_title, metrics), *(f"{cost_title(name)} ↓" for name in costs)]
    return Table(header, [list(row) for row in zip(names, *columns, strict=True)], "figures")


def _column(name: str, values: Sequence[Value | None], base: Value | None) -> list[Cell]:
    """None is the best where all are alike as written, nor of the losses of different latents."""
    written = {write_value(name, value): value.mean for value in values if value is not None}
    best = (max if higher_is_better(name) else min)(written, key=lambda text: written[text])
    is_ranked = all(value is None or value.is_comparable for value in values)
    if len(written) == 1 or name == NOISE_LOSS or not is_ranked:
        best = None
    cells = []
    for value in values:
        text = ABSENT if value is None else write_value(name, value)
        notes = () if value is None else _notes(name, value, base)
        cells.append(Cell(text, notes, text == best))
    return cells


def _notes(name: str, value: Value, base: Value | None) -> tuple[str, ...]:
    """Its interval, and what it is beside the unpruned one."""
    notes = []
    if value.low is not None and value.high is not None:
        notes.append(f"{write_figure(name, value.low)} to {write_figure(name, value.high)}")
    if (base is None or value is base) and not value.is_comparable:
        return (*notes, NOT_COMPARABLE)
    if base is None or value is base:
        return () if is_time(name) else tuple(notes)
    if name == PSNR:
        notes.append(f"{value.mean - base.mean:+.2f} dB".replace("-", "−"))
    elif not value.is_comparable:
        notes.append(NOT_COMPARABLE)
    elif name != NOISE_LOSS and not is_time(name):
        notes.append(f"× {value.mean / base.mean:.2f}" if base.mean else ABSENT)
    return tuple(notes)
