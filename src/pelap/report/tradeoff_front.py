"""Which models no other one beats in cost and quality together."""

from collections.abc import Sequence


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
