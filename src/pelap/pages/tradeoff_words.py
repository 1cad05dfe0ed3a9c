"""Which models beat chance, which are beaten in every respect, and how that is said."""

from collections.abc import Sequence
from dataclasses import dataclass

from pelap.pages.numbers import listed
from pelap.pages.tradeoff_points import (
    FEWEST,
    LATENT_BYTES,
    MACS,
    NOISE_LOSS,
    NOT_COMPARABLE,
    NOT_MEASURED,
    PARAMETERS,
    PSNR,
    TIME,
    TO_UNPRUNED,
    TradeoffPoint,
    cost_title,
    higher_is_better,
    is_time,
    judges_denoiser,
    metric_name,
    write_figure,
)

SAME_SIZE = 0.1
"""Models whose counted costs differ by less, relatively, are of the same size."""
OUTCOMES = {1: "better", 0: "not told apart", -1: "worse"}
COUNTED = (MACS, PARAMETERS, LATENT_BYTES)


@dataclass(frozen=True)
class ChanceComparison:
    """A pruned model against the best random one of its size."""

    pruned: TradeoffPoint
    random: TradeoffPoint | None
    """None where there is none of its size."""
    num_random: int
    outcome: int
    """1 if the pruned one is better, −1 if worse, 0 where their intervals overlap."""


def main_metric(points: Sequence[TradeoffPoint]) -> str:
    """Of what all models have: the Fréchet distance of samples to test pictures, else the PSNR.

    Distances of too few pictures are passed over.
    """
    shared = [n for n in metrics_of(points) if all(p.quality[n].is_comparable for p in points)]
    for name in shared:
        if name.startswith("FD-") and not name.endswith(TO_UNPRUNED):
            return name
    return PSNR if PSNR in shared else shared[0]


def metrics_of(points: Sequence[TradeoffPoint]) -> list[str]:
    """Metrics that every model has; noise losses last: those of other latents are no match."""
    shared = [n for n in points[0].quality if all(n in point.quality for point in points)]
    return sorted(shared, key=lambda name: name == NOISE_LOSS)


def compare(one: TradeoffPoint, other: TradeoffPoint, name: str) -> int:
    """1 if `one` is better in a metric or cost, −1 if worse, 0 if their intervals overlap."""
    ours, theirs = one.figures[name], other.figures[name]
    if ours.ends[0] <= theirs.ends[1] and theirs.ends[0] <= ours.ends[1]:
        return 0
    return 1 if (ours.mean > theirs.mean) == higher_is_better(name) else -1


def compare_with_chance(points: Sequence[TradeoffPoint], metric: str) -> list[ChanceComparison]:
    """Every pruned model against the random ones of its size, the equally trained ones first."""
    comparisons, pick = [], max if higher_is_better(metric) else min
    for point in [point for point in points if point.role == "pruned"]:
        rivals = [p for p in points if p.role == "random" and _same_size(point, p)]
        away = [abs(rival.training_steps - point.training_steps) for rival in rivals]
        rivals = [r for r, steps in zip(rivals, away, strict=True) if steps == min(away)]
        best = pick(rivals, key=lambda rival: rival.quality[metric].mean, default=None)
        outcome = 0 if best is None else compare(point, best, metric)
        comparisons.append(ChanceComparison(point, best, len(rivals), outcome))
    return comparisons


def _same_size(one: TradeoffPoint, other: TradeoffPoint) -> bool:
    shared = [name for name in COUNTED if name in one.cost and name in other.cost]
    ratios = [one.cost[name].mean / other.cost[name].mean for name in shared]
    return all(abs(ratio - 1) < SAME_SIZE for ratio in ratios)


def dominates(one: TradeoffPoint, other: TradeoffPoint, metric: str) -> bool:
    """Whether `one` costs no more in any respect, is no worse, and is better in one.

    A time costs more where the intervals do not overlap; better is so meant too. Never of a model
    of which the metric says too little: its denoiser changed, and the metric is not of it.
    """
    if not (one.is_ranked(metric) and other.is_ranked(metric)):
        return False
    costs = [compare(one, other, name) for name in one.cost]
    ours, theirs = one.quality[metric].mean, other.quality[metric].mean
    no_worse = ours >= theirs if higher_is_better(metric) else ours <= theirs
    return no_worse and min(costs) >= 0 and max(*costs, compare(one, other, metric)) > 0


def pareto_front(
    costs: Sequence[float], qualities: Sequence[float], *, higher_is_better: bool
) -> list[int]:
    """Those that no other one dominates, by rising cost.

    One dominates another if it costs no more, is no worse, and is not its equal in both. Equals
    stand on the front together.

    Args:
        costs: Of each model; less is better.
        qualities: Of each model, in the same order.
        higher_is_better: Of quality.

    Returns:
        Places in `costs`.

    Raises:
        ValueError: If the two differ in length.
    """
    sign = -1.0 if higher_is_better else 1.0
    models = sorted(
        (cost, sign * quality, place)
        for place, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
    )
    front: list[tuple[float, float, int]] = []
    for model in models:
        if not front or model[1] < front[-1][1] or model[:2] == front[-1][:2]:
            front.append(model)
    return [place for _, _, place in front]


def lead(comparisons: Sequence[ChanceComparison], metric: str) -> str:
    """The page's first sentence."""
    if not comparisons:
        return "No pruned model here."
    held = [comparison for comparison in comparisons if comparison.random is not None]
    if not held:
        return "No pruned model here has a random one of its size beside it."
    outcomes, num = [comparison.outcome for comparison in held], len(held)
    chance = f"random removal of the same size in {metric_name(metric)}"
    if num == 1:
        verdict = f"{OUTCOMES[outcomes[0]]} {'than' if outcomes[0] else 'from'}"
        return f"{held[0].pruned.label} is {verdict} {chance}."
    won, lost = outcomes.count(1), outcomes.count(-1)
    counted = {0: f"None of the {num}", 1: f"One of the {num}", num: f"All {num}"}
    who = f"{counted.get(won, f'{won} of the {num}')} pruned models {'is' if won < 2 else 'are'}"
    return f"{who} better than {chance}{f'; {lost} did worse' if lost else ''}."


def chance_sentence(comparison: ChanceComparison, metric: str) -> str:
    """`width against width_random: 41.2 against 45.0 in FD-ResNet20, better than chance.`"""
    pruned, random, num_random = comparison.pruned, comparison.random, comparison.num_random
    if random is None:
        return (
            f"{pruned.label} has no random model of its size here: make one with "
            "`pelap prune MODEL` and the same sizes, --criterion random or "
            "--denoiser-criterion random."
        )
    outcome = comparison.outcome
    verdict = OUTCOMES[outcome] + (" than chance" if outcome else ": the intervals overlap")
    best = "" if num_random == 1 else f", the best of {num_random} random models"
    unfair = (
        f" They were not recovered alike ({pruned.training_steps:,} and "
        f"{random.training_steps:,} steps), so this is no fair comparison."
    )
    return (
        f"{pruned.label} against {random.label}{best}: {_against(pruned, random, metric)} in "
        f"{metric_name(metric)}, {verdict}."
        f"{'' if pruned.training_steps == random.training_steps else unfair}"
        f"{_of_what(pruned, metric)}"
    )


def cost_sentence(point: TradeoffPoint, unpruned: TradeoffPoint, metric: str) -> str:
    """What a pruned model costs and gives beside the unpruned one."""
    shares = []
    for name in [name for name in point.cost if name in unpruned.cost]:
        cost, base = point.cost[name], unpruned.cost[name]
        share = f"{100 * cost.mean / base.mean:.0f} %"
        if cost.mean != base.mean and compare(point, unpruned, name) == 0:
            share = OUTCOMES[0]
        batch = name.removeprefix(TIME)
        shares.append(
            f"{f'time ({batch} at a time)' if is_time(name) else cost_title(name)} {share}"
        )
    return (
        f"{point.label} beside {unpruned.label}: {', '.join(shares)}; {metric_name(metric)} "
        f"{_against(point, unpruned, metric)}, "
        f"{OUTCOMES[compare(point, unpruned, metric)]}.{_of_what(point, metric)}"
    )


def _of_what(point: TradeoffPoint, metric: str) -> str:
    """What a metric leaves out of a model, as a further sentence; empty where that is nothing."""
    if point.is_unknown:
        return f" That is of its autoencoder: {NOT_MEASURED}."
    if point.denoiser_changed and not judges_denoiser(metric):
        return f" {metric_name(metric)} says nothing of its changed denoiser."
    return ""


def missing_sentences(points: Sequence[TradeoffPoint]) -> list[str]:
    """What the page cannot say, since a model or pictures are missing."""
    roles, found = {point.role for point in points}, []
    if "unpruned" not in roles:
        found.append(
            f"No unpruned model is among them: the others are held against {points[0].label}."
        )
    if "random" not in roles and "pruned" in roles:
        found.append(
            "No model pruned at random is among them, so whether chance would have done as well "
            "is not known: `pelap prune MODEL --criterion random` with the same sizes makes one."
        )
    if unknown := [point.label for point in points if point.is_unknown]:
        found.append(
            f"{listed(unknown)}: {NOT_MEASURED}, only the autoencoder was; so no rank is given."
        )
    few = [name for name in metrics_of(points)
           if not all(point.quality[name].is_comparable for point in points)]  # fmt: skip
    if few:
        found.append(
            f"{listed([metric_name(name) for name in few])}: {NOT_COMPARABLE}, of fewer than "
            f"{FEWEST:,} pictures; nothing is ranked by it."
        )
    return found


def _against(one: TradeoffPoint, other: TradeoffPoint, metric: str) -> str:
    first, second = (write_figure(metric, point.quality[metric].mean) for point in (one, other))
    return f"{first} against {second}"


def domination_sentences(points: Sequence[TradeoffPoint], metric: str) -> list[str]:
    """One for each model that beats others in every respect."""
    sentences = []
    for point in points:
        below = [other.label for other in points if dominates(point, other, metric)]
        if below:
            sentences.append(
                f"{point.label} dominates {listed(below)}: it costs no more in any respect, is no "
                f"worse in {metric_name(metric)}, and better in one of these."
            )
    return sentences
