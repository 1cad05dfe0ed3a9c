"""From a target to a narrower denoiser: the shapes that meet it, and the best of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pelap.core.errors import ConfigError
from pelap.core.progress import track
from pelap.families.family import Widths
from pelap.pruning.width.shape_search import ShapesFound, find_shapes
from pelap.pruning.width.shape_space import ShapeSpace, open_space
from pelap.pruning.width.shapes import Shape, make_shape
from pelap.pruning.width.step_time import Timer, time_shape
from pelap.pruning.width.width_choice import Candidate, Choice, NarrowDenoiser, build, choose
from pelap.pruning.width.width_criteria import WIDTH_CRITERIA, WidthEvidence, WidthScores

LADDER = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the MACs at which shapes are timed."""
NUM_TIMED = 3
"""Shapes timed at each of them."""
Judge = Callable[[nn.Module], float]
"""How far a denoiser's predictions are from the original's, lower is better; its last layer may be
refitted before."""


@dataclass(frozen=True)
class WidthRequest:
    """What the user asked for: at least one of `macs`, `latency` and `widths`."""

    macs: float | None = None
    """Most of a step's multiply-accumulates, as a share of what it cost before."""
    latency: float | None = None
    """Most of a step's time on this machine, as a share of what it took before."""
    widths: Widths | None = None
    criterion: str | None = None
    """None takes taylor where the denoiser can be run, else magnitude."""
    seed: int = 0
    """Of the criterion `random`."""

    def is_asked(self) -> bool:
        """Whether anything was said of the denoiser's width."""
        return any(v is not None for v in (self.macs, self.latency, self.widths, self.criterion))

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigError: Names the option.
        """
        if self.macs is None and self.latency is None and self.widths is None:
            raise ConfigError(
                "--denoiser-criterion: give --denoiser-macs, --denoiser-latency or "
                "--denoiser-widths with it."
            )
        for name, value in (("macs", self.macs), ("latency", self.latency)):
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"--denoiser-{name} is {value:g}: give a share in (0, 1].")
        if self.widths is not None and (self.macs is not None or self.latency is not None):
            raise ConfigError("--denoiser-widths says it all: leave the targets out.")
        if self.criterion is not None and self.criterion not in WIDTH_CRITERIA:
            raise ConfigError(
                f"--denoiser-criterion is {self.criterion}: known are {', '.join(WIDTH_CRITERIA)}."
            )


def _find_criterion(request: WidthRequest, evidence: WidthEvidence) -> tuple[str, WidthScores]:
    """The scores by the criterion that was asked for, or by the best one there is.

    Raises:
        ConfigError: If it cannot be computed.
    """
    default = "magnitude" if evidence.slopes is None else "taylor"
    name = request.criterion or default
    scores = WIDTH_CRITERIA[name].find(evidence)
    if scores is None:
        raise ConfigError(
            f"--denoiser-criterion {name}: {WIDTH_CRITERIA[name].missing} Give magnitude."
        )
    return name, scores


@torch.no_grad()
def narrow(
    denoiser: nn.Module,
    request: WidthRequest,
    evidence: WidthEvidence,
    macs_before: int,
    measure_latency: Timer,
    judge: Judge | None = None,
    time_step: Timer | None = None,
) -> NarrowDenoiser:
    """The narrower denoiser that meets the targets and predicts most as the original does.

    Args:
        denoiser: Left as it is.
        request: What is wanted.
        evidence: Of this denoiser.
        macs_before: What the shares are of: a step before anything was removed.
        measure_latency: Time of a step of a network over that of the original.
        judge: Refits what comes out, and chooses among shapes that meet a target of MACs; without
            it the criterion does, by the share of its scores that is kept.
        time_step: Says of a shape that meets a target of MACs whether they become time.

    Raises:
        ConfigError: If the request cannot be met.
        ModelError: If the class is not supported.
    """
    name, scores = _find_criterion(request, evidence)
    if request.widths is not None:
        choice = choose(denoiser, make_shape(denoiser, request.widths), scores)
        found = build(denoiser, choice, name)
    else:
        search = _Search(denoiser, name, scores, macs_before)
        if request.latency is None:
            best = search.best(request.macs or 1.0, judge)
            return best if time_step is None else search.timed(best, time_step)
        found = search.fast_enough(request.latency, request.macs or 1.0, measure_latency)
    if judge is not None:
        judge(found.denoiser)
    return found


class _Search:
    """The shapes of one denoiser, with what the criterion keeps of each.

    Args:
        denoiser: Whose shapes.
        criterion: Its name.
        scores: What it says of the weights.
        macs_before: What shares of MACs are of.
    """

    def __init__(self, denoiser: nn.Module, criterion: str, scores: WidthScores, macs_before: int):
        self.denoiser = denoiser
        self.criterion = criterion
        self.scores = scores
        self.macs_before = macs_before
        self.space = open_space(denoiser)
        self.worth = _predict_kept(self.space, scores)

    def best(self, share: float, judge: Judge | None) -> NarrowDenoiser:
        """The one that the judge prefers of those that meet a share of the MACs."""
        found, choices = self._choices(share)
        if judge is None:
            best, errors = build(self.denoiser, choices[0], self.criterion), [None] * len(choices)
        else:
            best, choices, errors = self._judged(choices, judge)
        compared = zip(choices, errors, strict=True)
        return replace(
            best,
            candidates=tuple(
                Candidate(c.shape.widths, c.shape.macs, c.kept_score, error)
                for c, error in compared
            ),
            nearest=found.nearest,
            below_target=best.shape.macs < min(shape.macs for shape in found.shapes),
        )

    def _judged(
        self, choices: list[Choice], judge: Judge
    ) -> tuple[NarrowDenoiser, list[Choice], list[float]]:
        """The best, and all with their errors, rising; one network is held beside the best."""
        best, errors = None, []
        for choice in track(choices, "Comparing shapes"):
            built = build(self.denoiser, choice, self.criterion)
            errors.append(judge(built.denoiser))
            if best is None or errors[-1] < min(errors[:-1]):
                best = built
        assert best is not None
        order = sorted(range(len(choices)), key=lambda place: errors[place])
        return best, [choices[place] for place in order], [errors[place] for place in order]

    def timed(self, best: NarrowDenoiser, timer: Timer) -> NarrowDenoiser:
        """It, with what a step takes, and where that is not less: the nearest shape whose is."""

        def make(shape: Shape) -> nn.Module:
            chosen = choose(self.denoiser, shape, self.scores)
            return build(self.denoiser, chosen, self.criterion).denoiser

        time = time_shape(self.space, best.shape, best.denoiser, self.macs_before, make, timer)
        return replace(best, time=time)

    def fast_enough(self, latency: float, share: float, measure_latency: Timer) -> NarrowDenoiser:
        """Time shapes with fewer and fewer MACs, those that keep most first, until one is fast."""
        fastest = 1.0
        for step in LADDER:
            try:
                _, choices = self._choices(step * share)
            except ConfigError:  # nothing is that narrow
                break
            for choice in choices[:NUM_TIMED]:
                found = build(self.denoiser, choice, self.criterion)
                ratio = measure_latency(found.denoiser)
                if ratio <= latency:
                    return found
                fastest = min(fastest, ratio)
        raise ConfigError(
            f"--denoiser-latency is {latency:g}: the fastest shape tried takes {fastest:.2f} of "
            "the time."
        )

    def _choices(self, share: float) -> tuple[ShapesFound, list[Choice]]:
        """What there is for a share of the MACs, those that keep most first."""
        found = find_shapes(self.space, share, self.macs_before, self.worth)
        return found, _ranked(self.denoiser, [*found.shapes, *found.cheaper], self.scores)


def _predict_kept(space: ShapeSpace, scores: WidthScores) -> np.ndarray:
    """About what share of the scores each shape keeps, (N,), from some that were tried."""

    def lost(widths: Widths) -> float:
        shape = Shape(widths, space.freedom.updates(widths), 0)
        return 1 - choose(space.denoiser, shape, scores).kept_score

    return space.interpolate(lost)


def _ranked(denoiser: nn.Module, shapes: list[Shape], scores: WidthScores) -> list[Choice]:
    choices = [choose(denoiser, shape, scores) for shape in shapes]
    return sorted(choices, key=lambda choice: choice.kept_score, reverse=True)
