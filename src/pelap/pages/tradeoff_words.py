"""Which models beat chance, which are beaten in every respect, and how that is said."""

from collections.abc import Sequence
from dataclasses import dataclass

from pelap.pages.tradeoff_points import (
    LATENT_BYTES,
    MACS,
    NOISE_LOSS,
    PARAMETERS,
    PSNR,
    TO_UNPRUNED,
    TradeoffPoint,
    Value,
    cost_title,
    higher_is_better,
    is_time,
    metric_name,
    write_figure,
)

SAME_SIZE = 0.1
"""Models whose counted costs differ by less, relatively, are of the same size."""
CHANCE = {
    1: "better than chance",
    0: "not told apart: the intervals overlap",
    -1: "worse than chance",
}
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
    """Of what all models have: the Fréchet distance of samples to test pictures, else the PSNR."""
    shared = metrics_of(points)
    for name in shared:
        if name.startswith("FD-") and not name.endswith(TO_UNPRUNED):
            return name
    return PSNR if PSNR in shared else shared[0]


def metrics_of(points: Sequence[TradeoffPoint]) -> list[str]:
    """Metrics that every model has; noise losses last: those of other latents are no match."""
    shared = [n for n in points[0].quality if all(n in point.quality for point in points)]
    return sorted(shared, key=lambda name: name == NOISE_LOSS)


def compare(one: Value, other: Value, *, higher: bool) -> int:
    """1 if `one` is better, −1 if worse, 0 if their intervals overlap or they are equal."""
    if one.ends[0] <= other.ends[1] and other.ends[0] <= one.ends[1]:
        return 0
    return 1 if (one.mean > other.mean) == higher else -1


def compare_with_chance(points: Sequence[TradeoffPoint], metric: str) -> list[ChanceComparison]:
    """Every pruned model against the random ones of its size, the equally trained ones first."""
    return [_beside_chance(point, points, metric) for point in points if point.role == "pruned"]


def _beside_chance(
    point: TradeoffPoint, points: Sequence[TradeoffPoint], metric: str
) -> ChanceComparison:
    rivals = [other for other in points if other.role == "random" and _same_size(point, other)]
    if not rivals:
        return ChanceComparison(point, None, 0, 0)
    nearest = min(abs(other.training_steps - point.training_steps) for other in rivals)
    rivals = [r for r in rivals if abs(r.training_steps - point.training_steps) == nearest]
    higher = higher_is_better(metric)
    sign = -1 if higher else 1
    best = min(rivals, key=lambda rival: sign * rival.quality[metric].mean)
    outcome = compare(point.quality[metric], best.quality[metric], higher=higher)
    return ChanceComparison(point, best, len(rivals), outcome)


def _same_size(one: TradeoffPoint, other: TradeoffPoint) -> bool:
    return all(
        abs(one.cost[name].mean / other.cost[name].mean - 1) < SAME_SIZE
        for name in COUNTED
        if name in one.cost and name in other.cost
    )


def dominates(one: TradeoffPoint, other: TradeoffPoint, metric: str) -> bool:
    """Whether `one` costs no more in any respect, is no worse, and is better in one.

    A time costs more where the intervals do not overlap; better is so meant too.
    """
    higher = higher_is_better(metric)
    costs = [compare(one.cost[name], other.cost[name], higher=False) for name in one.cost]
    ours, theirs = one.quality[metric], other.quality[metric]
    no_worse = ours.mean >= theirs.mean if higher else ours.mean <= theirs.mean
    better = [*costs, compare(ours, theirs, higher=higher)]
    return no_worse and min(costs) >= 0 and max(better) > 0


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
    held = [comparison for comparison in comparisons if comparison.random is not None]
    if not held:
        return "No pruned model here has a random one of its size beside it."
    outcomes = [comparison.outcome for comparison in held]
    chance = f"random removal of the same size in {metric_name(metric)}"
    if len(held) == 1:
        verdict = {1: "better than", 0: "not told apart from", -1: "worse than"}[outcomes[0]]
        return f"{held[0].pruned.label} is {verdict} {chance}."
    won, lost = outcomes.count(1), outcomes.count(-1)
    num = len(outcomes)
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
    figures = " against ".join(
        write_figure(metric, point.quality[metric].mean) for point in (pruned, random)
    )
    best = "" if num_random == 1 else f", the best of {num_random} random models"
    return (
        f"{pruned.label} against {random.label}{best}: {figures} in {metric_name(metric)}, "
        f"{CHANCE[comparison.outcome]}.{_unequal(pruned, random)}"
    )


def _unequal(pruned: TradeoffPoint, random: TradeoffPoint) -> str:
    if pruned.training_steps == random.training_steps:
        return ""
    return (
        f" They were not recovered alike ({pruned.training_steps:,} and "
        f"{random.training_steps:,} steps), so this is no fair comparison."
    )


def cost_sentence(point: TradeoffPoint, unpruned: TradeoffPoint, metric: str) -> str:
    """What a pruned model costs and gives beside the unpruned one."""
    shares = ", ".join(
        f"{_short(name)} {_share(point.cost[name], unpruned.cost[name])}"
        for name in point.cost
        if name in unpruned.cost
    )
    ours, theirs = point.quality[metric], unpruned.quality[metric]
    outcome = compare(ours, theirs, higher=higher_is_better(metric))
    verdict = {1: "better", 0: "not told apart", -1: "worse"}[outcome]
    return (
        f"{point.label} beside {unpruned.label}: {shares}; {metric_name(metric)} "
        f"{write_figure(metric, ours.mean)} against {write_figure(metric, theirs.mean)}, {verdict}."
    )


def _share(cost: Value, base: Value) -> str:
    if cost.mean != base.mean and compare(cost, base, higher=False) == 0:
        return "not told apart"
    return f"{100 * cost.mean / base.mean:.0f} %"


def _short(cost: str) -> str:
    """As it stands in a list: `time (16 at a time)`."""
    title = cost_title(cost).removesuffix(" (unpruned: 1)")
    return f"time ({title.removeprefix('time, ')})" if is_time(cost) else title


def domination_sentences(points: Sequence[TradeoffPoint], metric: str) -> list[str]:
    """One for each model that beats others in every respect."""
    sentences = []
    for point in points:
        below = [other.label for other in points if dominates(point, other, metric)]
        if below:
            sentences.append(
                f"{point.label} dominates {_join(below)}: it costs no more in any respect, is no "
                f"worse in {metric_name(metric)}, and better in one of these."
            )
    return sentences


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
