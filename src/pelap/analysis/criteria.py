"""Criteria: rules from what was measured to an order of the channels, all behind one registry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torchmetrics.functional import kendall_rank_corrcoef

from pelap.analysis.decoding import LeaveOneOut
from pelap.analysis.elimination import TIE, eliminate_by_moments, unexplained_variance
from pelap.analysis.statistics import Statistics


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured before ranking. Float64 on the CPU."""

    statistics: Statistics
    metric: Tensor
    """M of `DecoderMetric`, (C, C)."""
    left_out: LeaveOneOut
    """Errors with and without each channel."""
    elimination: list[int]
    """Channels, the one removed last first."""
    bands: list[tuple[int, int]]
    """First and last timestep of each row of `taylor`."""
    taylor: Tensor | None
    """(num_bands, C); None without a denoiser."""
    scores: Tensor | None
    """Scores of the learned predictor, (C,); None where it was left out."""

    @property
    def covariance(self) -> Tensor:
        """Covariance of the latents as drawn, (C, C)."""
        return self.statistics.moments.covariance


@dataclass(frozen=True)
class Order:
    """Channels in the order in which to keep them."""

    ranking: list[int]
    """The one to keep longest first."""
    values: Tensor | None = None
    """What they were ordered by, larger first, (C,); None if there is no such number."""

    @property
    def strengths(self) -> Tensor:
        """Values without differences that mean nothing, or else places in the order, (C,)."""
        if self.values is not None:
            return _settle(self.values)
        return -torch.tensor(self.ranking).argsort().double()


Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Criterion(Generic[Given, Found]):
    """A rule with a name, from what was measured to what it says."""

    name: str
    description: str
    """One sentence."""
    find: Callable[[Given], Found | None]
    """Gives None if the evidence lacks what it needs."""
    missing: str = ""
    """Why it may have been left out, a sentence."""


def by_value(values: Tensor) -> Order:
    """Largest first; of equal ones the lower channel first."""
    ranking = _settle(values).argsort(descending=True, stable=True)
    return Order(ranking.tolist(), values)


def _settle(values: Tensor) -> Tensor:
    """Sums over several processes differ in their last digits, and must not break ties."""
    step = TIE * values.abs().max()
    return (values / step).round() if step > 0 else values


_CRITERIA: tuple[Criterion[Evidence, Order], ...] = (
    Criterion(
        "variance",
        "Variance of the latents as drawn.",
        lambda e: by_value(e.covariance.diagonal()),
    ),
    Criterion(
        "kl",
        "Divergence of the encoder's distribution from the standard normal.",
        lambda e: by_value(e.statistics.kl),
    ),
    Criterion(
        "leave_one_out",
        "Measured rise of the squared error when the channel is replaced by its mean.",
        lambda e: by_value(e.left_out.rise()[0]),
    ),
    Criterion(
        "leave_one_out_linear",
        "Measured rise of the squared error when the channel is predicted linearly from "
        "all others.",
        lambda e: by_value(e.left_out.rise()[1]),
    ),
    Criterion(
        "decoder_sensitivity",
        "Variance times the mean squared derivative of the decoder by the channel.",
        lambda e: by_value(e.metric.diagonal() * e.covariance.diagonal()),
    ),
    Criterion(
        "conditional",
        "Greedy elimination by what decoding costs to second order when removed channels are "
        "predicted linearly from the kept.",
        lambda e: Order(eliminate_by_moments(e.metric, e.covariance)),
    ),
    Criterion(
        "elimination",
        "Greedy elimination by the measured squared error.",
        lambda e: Order(e.elimination),
    ),
    Criterion(
        "redundancy",
        "Variance that a linear prediction from the other channels leaves.",
        lambda e: by_value(unexplained_variance(e.covariance)),
    ),
    Criterion(
        "taylor",
        "First-order change of the denoiser's loss without the channel, mean over the bands "
        "of timesteps.",
        lambda e: None if e.taylor is None else by_value(e.taylor.mean(dim=0)),
        "There is no denoiser that could be run, so there is no criterion taylor.",
    ),
    Criterion(
        "learned",
        "Score of an importance predictor trained with a top-k gate on the frozen autoencoder.",
        lambda e: None if e.scores is None else by_value(e.scores),
        "The importance predictor was not trained (--learned-steps N trains it), so there is no "
        "criterion learned.",
    ),
)
CRITERIA = {criterion.name: criterion for criterion in _CRITERIA}


def rank_all(evidence: Evidence) -> tuple[dict[str, Order], list[str]]:
    """The order by every criterion that can be computed, and a sentence for each that cannot."""
    orders, missing = {}, []
    for name, criterion in CRITERIA.items():
        order = criterion.find(evidence)
        if order is None:
            missing.append(criterion.missing)
        else:
            orders[name] = order
    return orders, missing


def agree(orders: Sequence[Order]) -> list[list[float | None]]:
    """Kendall's τ-b of each two; None where either holds all channels to be equal."""
    strengths = [order.strengths for order in orders]
    return [[_tau(a, b) for b in strengths] for a in strengths]


def _tau(a: Tensor, b: Tensor) -> float | None:
    if (a == a[0]).all() or (b == b[0]).all():
        return None
    tau = kendall_rank_corrcoef(a, b, variant="b")
    assert isinstance(tau, Tensor)  # a pair only where a test is asked for
    return float(tau)
