"""Criteria for a denoiser's inner units, behind the interface of those for latent channels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from pelap.analysis.criteria import Criterion
from pelap.core.seeding import generator
from pelap.families.family import LayerList, Layers
from pelap.families.layout import WidthLayout
from pelap.families.ports import State
from pelap.pruning.width.layers import sum_by_layer, take_layers
from pelap.pruning.width.unit_slicing import score_units

LOSS_SHARE = 0.05
"""Of the largest loss: timesteps with less say nothing in `diff_pruning`; its authors' value."""


@dataclass(frozen=True)
class WidthEvidence:
    """Everything that was measured before ranking."""

    weights: State
    slopes: State | None = None
    """Mean |w · ∂loss/∂w| over all timesteps; None where the denoiser was not run."""
    loud_slopes: State | None = None
    """The same over timesteps whose loss is at least LOSS_SHARE of the largest."""
    seed: int = 0


@dataclass(frozen=True)
class WidthScores:
    """What a criterion says of single weights, and so of units, layers and whole shapes."""

    weights: State
    """One a weight, 0 or more: shapes and layers are compared by their sums."""
    seed: int | None = None
    """Draw the units instead of comparing theirs."""

    def of_units(self, layout: WidthLayout) -> dict[str, Tensor]:
        """One a unit, by group, float64."""
        if self.seed is None:
            return score_units(self.weights, layout)
        source = generator(self.seed, "order", 0)
        return {
            name: torch.rand(group.num_units, generator=source, dtype=torch.float64)
            for name, group in layout.groups.items()
        }

    @cached_property
    def sums(self) -> dict[str, float]:
        """Of each weight, by name."""
        return {name: float(scores.double().sum()) for name, scores in self.weights.items()}

    def of_layers(self, lists: Sequence[LayerList]) -> list[Tensor]:
        """Of each list, one a layer, float64."""
        found = sum_by_layer(self.sums, lists)
        if self.seed is None:
            return found
        source = generator(self.seed, "order", 1)
        return [torch.rand(len(sums), generator=source).double() for sums in found]

    def of_kept_layers(self, kept: Layers) -> Self:
        """Without the layers that go."""
        return replace(self, weights=take_layers(self.weights, kept))


def random(evidence: WidthEvidence) -> WidthScores:
    ones = {name: torch.ones_like(weight) for name, weight in evidence.weights.items()}
    return WidthScores(ones, evidence.seed)


def magnitude(evidence: WidthEvidence) -> WidthScores:
    return WidthScores({n: weight.float().square() for n, weight in evidence.weights.items()})


def taylor(evidence: WidthEvidence) -> WidthScores | None:
    return None if evidence.slopes is None else WidthScores(evidence.slopes)


def diff_pruning(evidence: WidthEvidence) -> WidthScores | None:
    return None if evidence.loud_slopes is None else WidthScores(evidence.loud_slopes)


_UNRUN = "The denoiser needs more than latents and a timestep, so there is no criterion {}."

WIDTH_CRITERIA: dict[str, Criterion[WidthEvidence, WidthScores]] = {
    criterion.name: criterion
    for criterion in (
        Criterion("random", "Units drawn without looking; the shape with most weights.", random),
        Criterion("magnitude", "Sum of the squares of a unit's weights.", magnitude),
        Criterion(
            "taylor",
            "First-order change of the denoiser's loss without the weight, summed over the unit.",
            taylor,
            _UNRUN.format("taylor"),
        ),
        Criterion(
            "diff_pruning",
            "The same over timesteps whose loss is at least 5 % of the largest.",
            diff_pruning,
            _UNRUN.format("diff_pruning"),
        ),
    )
}
