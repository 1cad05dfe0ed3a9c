"""Curves of which few points are decoded: the others follow from the quadratic model.

all curves, every third point ──> few pictures, or crops ──┐
where a curve bends, once more ──> the same                ├──> excess error of every set
between the points: model · measured / model there ────────┘        │
of each count, the few best sets ──> few pictures, then the best ──> whole pictures
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from pelap.analysis.curves import Curves, CurveSets, Key, join_curves
from pelap.analysis.decoding import measure_maps
from pelap.analysis.quadratic import map_cost
from pelap.analysis.tiers import Sparing
from pelap.measure.encoded_batches import Batches
from pelap.method.system import LatentDiffusion

BEND = 0.4
"""Relative change between two measured points, of what the model is wrong by, that is a bend."""
NOTHING = 1e-12
"""Costs below are rounding."""


class SparseErrors:
    """Rises of the squared error over all channels' on few pictures: measured, or predicted.

    Args:
        sets: What the curves need.
        system: The model.
        few: Pictures, or crops of them.
        metric_costs: What the quadratic model says of each set.
    """

    def __init__(
        self,
        sets: CurveSets,
        system: LatentDiffusion,
        few: Batches,
        metric_costs: dict[Key, float],
    ):
        self.sets, self.system, self.few, self.costs = sets, system, few, metric_costs
        self.whole = 0.0
        self.rises: dict[Key, float] = {}

    def measure(self, keys: Sequence[Key], label: str) -> None:
        """Decode the few pictures through those of the sets that have not been measured."""
        missing = [key for key in dict.fromkeys(keys) if key not in self.rises]
        first = not self.rises
        maps = [self.sets.maps[key] for key in missing]
        if first:
            maps.insert(0, self.sets.maps[self.sets.everything])
            self.rises[self.sets.everything] = 0.0
        if not maps:
            return
        errors = measure_maps(self.system, self.few, maps, label).tolist()
        if first:
            self.whole, *errors = errors
        for key, error in zip(missing, errors, strict=True):
            if key != self.sets.everything:
                self.rises[key] = error - self.whole

    def correction(self, key: Key) -> float:
        """What the quadratic model's cost of a measured set is wrong by, a factor."""
        cost = self.costs[key]
        return self.rises[key] / cost if cost > NOTHING else 1.0

    def predict(self, curve: Sequence[Key], place: int) -> float:
        """Rise of a curve's set: measured, or the model's by the corrections around it."""
        if curve[place] in self.rises:
            return self.rises[curve[place]]
        known = [at for at, key in enumerate(curve[:-1]) if key in self.rises]
        low = max((at for at in known if at < place), default=known[0])
        high = min((at for at in known if at > place), default=low)
        counts = self.sets.counts
        share = (counts[place] - counts[low]) / max(1, counts[high] - counts[low])
        share = share if high > low else 0.0
        below, above = self.correction(curve[low]), self.correction(curve[high])
        return self.costs[curve[place]] * (below + share * (above - below))

    def bends(self, curve: Sequence[Key], most: int) -> list[int]:
        """Places, at most so many, halfway between measured ones where the correction changes."""
        known = [at for at, key in enumerate(curve[:-1]) if key in self.rises]
        found = []
        for low, high in pairwise(known):
            below, above = self.correction(curve[low]), self.correction(curve[high])
            change = abs(above - below) / max(abs(above), abs(below), NOTHING)
            if high - low > 1 and change > BEND:
                found.append((change, (low + high) // 2))
        return [place for _, place in sorted(found, reverse=True)[:most]]


def measured_places(num_points: int, gap: int) -> list[int]:
    """Every so-manieth place of a curve, the first among them, and not the last: all channels."""
    return list(range(0, max(1, num_points - 1), gap))


def measure_sparsely(
    system: LatentDiffusion,
    few: Batches,
    batches: Batches,
    sets: CurveSets,
    sparing: Sparing,
    begin_whole: Callable[[], None],
) -> Curves:
    """All curves from few decodes.

    Args:
        system: The model.
        few: Pictures, or crops of them, on which sets are compared.
        batches: Whole pictures of the curves, on which the best set of a count is measured.
        sets: What the curves need.
        sparing: How many decodes to spare.
        begin_whole: Is called before the whole pictures, where the few are not all of them.
    """
    costs = {key: map_cost(one, sets.moments, sets.metric) for key, one in sets.maps.items()}
    errors = SparseErrors(sets, system, few, costs)
    places = measured_places(len(sets.counts), sparing.gap)
    curves = [*sets.rankings.values(), *sets.shuffled, *sets.rotations.values()]
    errors.measure([curve[place] for curve in curves for place in places], "Measuring curves")
    bent = [
        curve[place]
        for curve in sets.rankings.values()
        for place in errors.bends(curve, sparing.refined)
    ]
    errors.measure(bent, "Measuring where curves bend")
    points = range(len(sets.counts) - 1)
    errors.measure(
        [key for place in points for key in _best(errors, place)[: sparing.shortlist]],
        "Measuring the best sets",
    )
    best = {
        place: next(key for key in _best(errors, place) if key in errors.rises)
        for place in points
        if place % sparing.whole_gap == 0
    }  # of those measured: what was only predicted may look better by the model's error
    keys = list(dict.fromkeys([sets.everything, *best.values()]))
    if few.pictures is batches.pictures and few.num_pictures == batches.num_pictures:
        whole = {key: errors.whole + errors.rises[key] for key in keys}
    else:
        begin_whole()
        maps = [sets.maps[key] for key in keys]
        measured = measure_maps(system, batches, maps, "Measuring pictures").tolist()
        whole = dict(zip(keys, measured, strict=True))
    return join_curves(sets, _error_of(errors, whole, best))


def _best(errors: SparseErrors, place: int) -> list[Key]:
    """Different sets of the criteria at that place of their curves, the least error first."""
    found = {curve[place]: errors.predict(curve, place) for curve in errors.sets.rankings.values()}
    return sorted(found, key=lambda key: found[key])


def _error_of(
    errors: SparseErrors, whole: dict[Key, float], best: dict[int, Key]
) -> dict[tuple[Key, int], float]:
    """Error on the whole pictures of each set at a place, from its rise on the few.

    Rises grow by the factor by which that of the best set there does (a ratio estimate).
    """
    sets = errors.sets
    all_channels = whole[sets.everything]
    factors = {}
    for place, key in best.items():
        rise = errors.rises.get(key, 0.0)
        known = rise > NOTHING and whole[key] > all_channels
        factors[place] = (whole[key] - all_channels) / rise if known else 1.0
    found = {}
    last = len(sets.counts) - 1
    for curve in (*sets.rankings.values(), *sets.shuffled, *sets.rotations.values()):
        for place, key in enumerate(curve):
            if key in whole:
                found[key, place] = whole[key]
            elif place == last or not factors:
                found[key, place] = all_channels
            else:
                near = min(factors, key=lambda at, place=place: (abs(at - place), at))
                rise = errors.predict(curve, place) * factors[near]
                found[key, place] = max(all_channels * 1e-3, all_channels + rise)
    return found
