"""One self-contained page about a trade-off between quality and cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pelap
from pelap.config.run_folder import write_whole
from pelap.report.canvas import drawing
from pelap.report.run_page import Card, render
from pelap.report.tradeoff_figures import draw_tradeoff, shared_costs
from pelap.report.tradeoff_names import cost_title, metric_name, metric_title
from pelap.report.tradeoff_points import (
    NOISE_LOSS,
    PSNR,
    TradeoffPoint,
    higher_is_better,
    merge_groups,
)
from pelap.report.tradeoff_table import tradeoff_table
from pelap.report.tradeoff_words import (
    cost_sentence,
    domination_sentences,
    duel_sentence,
    hold_duels,
    lead,
    main_metric,
    metrics_of,
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
        points: One a model or group.
        unpruned: The one that the others are held against.
    """
    metric = main_metric(points)
    duels = hold_duels(points, metric)
    sentences = [duel_sentence(duel, metric) for duel in duels]
    sentences += [cost_sentence(duel.pruned, unpruned, metric) for duel in duels]
    return Findings(lead(duels, metric), [*sentences, *domination_sentences(points, metric)])


def write_tradeoff(points: Sequence[TradeoffPoint], notes: Sequence[str], output: Path) -> Path:
    """Write output/tradeoff.html (self-contained) and output/figures/*.png.

    Everything is drawn before the first file is written.

    Args:
        points: The first unpruned one is what the others are held against.
        notes: How the figures were measured, one sentence each.
        output: Folder, made if need be.

    Returns:
        Path of the page.

    Raises:
        ValueError: If none is unpruned.
    """
    merged = merge_groups(points)
    unpruned = next((point for point in merged if point.role == "unpruned"), None)
    if unpruned is None:
        raise ValueError("A trade-off needs an unpruned model.")
    cards = draw_cards(merged)
    found = find(merged, unpruned)
    page = render(
        "tradeoff.html.j2",
        title=f"{len(merged)} models: quality against cost",
        lead=found.lead,
        findings=found.sentences,
        figures=cards,
        table=tradeoff_table(merged, unpruned),
        unpruned=unpruned.label,
        notes=notes,
        pelap_version=pelap.__version__,
    )
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for card, _ in cards:
        write_whole(folder / f"{card.name}.png", card.image.png)
    write_whole(output / PAGE, page.encode())
    return output / PAGE


def draw_cards(points: Sequence[TradeoffPoint]) -> list[tuple[Card, Card]]:
    """For each metric a figure two panels wide, and the same for narrow screens; main one first."""
    main = main_metric(points)
    hidden = NOISE_LOSS if main != PSNR else None  # distances say more of the denoiser
    others = [name for name in metrics_of(points) if name not in (main, hidden)]
    return [
        (_card(points, name, columns=2), _card(points, name, columns=1)) for name in (main, *others)
    ]


def _card(points: Sequence[TradeoffPoint], metric: str, columns: int) -> Card:
    costs = shared_costs(points)
    better = "higher" if higher_is_better(metric) else "lower"
    figures = "; ".join(
        f"{point.label} {point.quality[metric].mean:.4g}"
        for point in points
        if metric in point.quality
    )
    seeds = any(point.num_models > 1 for point in points)
    bars = "one standard deviation between models" if seeds else "the intervals of the table"
    caption = (
        f"{metric_name(metric)}: {better} is better; left is cheaper. Dotted lines cross at the "
        "unpruned model. What lies on the grey line is beaten by no other model at that cost or "
        f"less; everything in the shade is. Bars: {bars}."
    )
    if metric == NOISE_LOSS:
        caption += " Noise losses of different latents are no match for each other."
    return Card(
        f"tradeoff_{metric}",
        metric_title(metric),
        caption,
        f"{metric_name(metric)} against {', '.join(map(cost_title, costs))}: {figures}.",
        drawing(lambda: draw_tradeoff(points, [metric], costs, columns)),
    )
