"""Gates: rules from scores to a mask, all behind one interface."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from pelap.config.run_config import GateConfig
from pelap.core.processes import mean_over_processes

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""β, γ and ζ of the hard concrete gate."""
SCORE_MOMENTUM = 0.05
"""Share of a new batch in the running mean of the scores."""


@dataclass(frozen=True)
class GateOutput:
    """What a gate made of a batch of scores."""

    mask: Tensor
    """(B, C) in [0, 1]."""
    num_open: Tensor | None = None
    """Expected number of open channels, mean over the batch: what a budget steers. None where the
    gate needs no steering."""
    target: float = 0.0
    """Number of channels that should be open now."""
    multiplier: Tensor | None = None
    """The budget's Lagrange multiplier, a constant of this step."""


class Gate(ModelMixin, ConfigMixin, ABC):
    """Scores (B, C) → mask (B, C) in [0, 1].

    A static gate has one set of channels for all data: it reads the mean of the scores over the
    batch, and once trained their running mean. An adaptive gate reads each sample's own scores.

    A gate is soft or noisy while it learns. `harden` ends that: from then on exactly `num` channels
    are open (of each sample, if adaptive; see `NestedGate` for the exception) and every mask is 0
    or 1.

    Args:
        num_channels: C.
        adaptive: Whether each sample has its own mask.
        multiplier_rate: Step of the Lagrange multiplier.
    """

    mean_scores: Tensor
    num_batches: Tensor
    target: Tensor
    multiplier: Tensor
    num_kept: Tensor
    kept: Tensor

    @register_to_config
    def __init__(self, num_channels: int = 4, adaptive: bool = True, multiplier_rate: float = 0.05):
        super().__init__()
        self.num_channels = num_channels
        self.adaptive = adaptive
        self.multiplier_rate = multiplier_rate
        self.register_buffer("mean_scores", torch.zeros(num_channels))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))
        self.register_buffer("target", torch.tensor(float(num_channels)))
        self.register_buffer("multiplier", torch.zeros(()))
        self.register_buffer("num_kept", torch.zeros((), dtype=torch.long))
        self.register_buffer("kept", torch.ones(num_channels))

    @property
    def is_hard(self) -> bool:
        """Whether the mask is final."""
        return int(self.num_kept) > 0

    def forward(self, scores: Tensor, noise: Tensor | None = None) -> GateOutput:
        """The mask of each sample.

        Args:
            scores: (B, C).
            noise: Uniform on (0, 1), (B, C), for gates that are random in training.
        """
        if self.is_hard and not self.adaptive:
            return GateOutput(mask=self.kept.expand_as(scores))
        if not self.adaptive:
            scores = self._shared(scores)
        if self.is_hard:
            return GateOutput(mask=self.hard_mask(scores, int(self.num_kept)))
        mask, num_open = self.rule(scores, noise if self.training else None)
        if num_open is None or int(self.target) == self.num_channels:
            return GateOutput(mask=mask)
        num_open = mean_over_processes(num_open)
        target, multiplier = float(self.target), self.multiplier.clone()
        if self.training:
            gap = (num_open.detach() - target) / self.num_channels
            self.multiplier += self.multiplier_rate * gap
        return GateOutput(mask, num_open, target, multiplier)

    @abstractmethod
    def rule(self, scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Mask (B, C) while the gate learns, and the expected number of open channels.

        Args:
            scores: (B, C), equal in all samples if the gate is static.
            noise: As in `forward`; None outside training.
        """

    def hard_mask(self, scores: Tensor, num: int) -> Tensor:
        """Mask (B, C) of zeros and ones with the `num` best scores of each sample open."""
        best = scores.topk(num, dim=1).indices
        return torch.zeros_like(scores).scatter_(1, best, 1.0)

    @torch.no_grad()
    def harden(self, num: int) -> None:
        """Keep exactly `num` channels from now on.

        Raises:
            ValueError: If `num` is not between 1 and the number of channels.
        """
        if not 1 <= num <= self.num_channels:
            raise ValueError(f"num is {num}: it must be from 1 to {self.num_channels}.")
        self.num_kept.fill_(num)
        self.target.fill_(num)
        self.kept.copy_(self.hard_mask(self.mean_scores[None], num)[0])

    def _shared(self, scores: Tensor) -> Tensor:
        if self.training:
            scores = mean_over_processes(scores.mean(dim=0, keepdim=True)).expand_as(scores)
            self._track(scores[0])
            return scores
        if int(self.num_batches) == 0:
            return scores.mean(dim=0, keepdim=True).expand_as(scores)
        return self.mean_scores.expand_as(scores)

    @torch.no_grad()
    def _track(self, values: Tensor) -> None:
        """Take the values (C,) of a batch into the running mean."""
        share = max(SCORE_MOMENTUM, 1 / (1 + int(self.num_batches)))
        self.mean_scores.lerp_(values.detach(), share)
        self.num_batches += 1


@final
class SigmoidGate(Gate):
    """mask = sigmoid(score): the paper's gate, never exactly 0 or 1 before it is hardened."""

    def rule(self, scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        mask = torch.sigmoid(scores)
        return mask, mask.sum(dim=1).mean()


@final
class HardConcreteGate(Gate):
    """A stretched and clipped concrete variable: often exactly 0 or 1, with a gradient.

    Louizos et al., arXiv 1712.01312, equations 10 to 13: β = 2/3, γ = −0.1, ζ = 1.1.
    """

    def rule(self, scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        temperature, low, high = TEMPERATURE, LOW, HIGH
        relaxed = torch.sigmoid(scores)
        if noise is not None:
            relaxed = torch.sigmoid((torch.logit(noise, eps=1e-6) + scores) / temperature)
        mask = (relaxed * (high - low) + low).clamp(0, 1)  # (B, C)
        shift = temperature * torch.log(torch.tensor(-low / high))
        return mask, torch.sigmoid(scores - shift).sum(dim=1).mean()


@final
class TopKGate(Gate):
    """The best scores open, with the sigmoid's gradient straight through (arXiv 1308.3432)."""

    def rule(self, scores: Tensor, noise: Tensor | None) -> tuple[Tensor, None]:
        hard = self.hard_mask(scores, round(float(self.target)))
        soft = torch.sigmoid(scores)
        return hard + soft - soft.detach(), None


@final
class NestedGate(Gate):
    """The first channels open, as many as chance says in training: one model for every budget.

    Nested dropout (Rippel et al., arXiv 1402.0915). Static, a prefix is any length from 1 to C with
    equal probability, and the scores decide nothing. Adaptive, the scores are logits of the length:
    half the prefixes are drawn from them, and what is used afterwards is their mean length. Samples
    then differ in how many channels they open: a budget is met by the mean over the data, all
    lengths being shifted by as much as the training's mean was off.

    Args:
        full_fraction: Part of the samples that keep every channel in training.
    """

    @register_to_config
    def __init__(
        self,
        num_channels: int = 4,
        adaptive: bool = False,
        multiplier_rate: float = 0.05,
        full_fraction: float = 0.0,
    ):
        super().__init__(num_channels, adaptive, multiplier_rate)
        self.full_fraction = full_fraction

    def rule(self, scores: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if not self.adaptive:
            if noise is None:
                return torch.ones_like(scores), None
            return self._prefix(self._random_lengths(noise), scores), None
        still_open = self._tail(scores)  # (B, C)
        num_open = still_open.sum(dim=1).mean()
        if self.training:
            self._track(mean_over_processes(still_open.detach().mean(dim=0)))
        if noise is None:
            return self._expected_prefix(scores), num_open
        drawn = (still_open > noise[:, 1 % self.num_channels, None]).sum(dim=1).clamp(min=1)
        is_drawn = noise[:, 2 % self.num_channels] < 0.5
        lengths = torch.where(is_drawn, drawn, self._random_lengths(noise))
        mask = self._prefix(lengths, scores)
        return mask + still_open - still_open.detach(), num_open

    def hard_mask(self, scores: Tensor, num: int) -> Tensor:
        if not self.adaptive:
            return self._prefix(torch.full_like(scores[:, 0], num), scores)
        seen = int(self.num_batches) > 0
        return self._expected_prefix(scores, num - float(self.mean_scores.sum()) if seen else 0.0)

    def _expected_prefix(self, scores: Tensor, shift: float = 0.0) -> Tensor:
        lengths = self._tail(scores).sum(dim=1) + shift  # (B,)
        return self._prefix(lengths.round().clamp(min=1), scores)

    def _random_lengths(self, noise: Tensor) -> Tensor:
        lengths = (noise[:, 0] * self.num_channels).floor() + 1  # (B,)
        is_full = noise[:, -1] < self.full_fraction
        return lengths.masked_fill(is_full, self.num_channels)

    def _prefix(self, lengths: Tensor, like: Tensor) -> Tensor:
        positions = torch.arange(self.num_channels, device=like.device)
        return (positions < lengths[:, None]).to(like.dtype)

    def _tail(self, scores: Tensor) -> Tensor:
        """Probability (B, C) that the prefix reaches each channel."""
        return scores.softmax(dim=1).flip(1).cumsum(dim=1).flip(1)


GATES: dict[str, type[Gate]] = {
    "sigmoid": SigmoidGate,
    "hard_concrete": HardConcreteGate,
    "top_k": TopKGate,
    "nested": NestedGate,
}


def build_gate(config: GateConfig, num_channels: int) -> Gate | None:
    """The gate of that kind; None for `open`, whose mask is 1 without asking anybody."""
    if config.kind == "open":
        return None
    extra = {"full_fraction": config.full_fraction} if config.kind == "nested" else {}
    return GATES[config.kind](num_channels, config.adaptive, config.multiplier_rate, **extra)


def follow_budget(gate: Gate, config: GateConfig, progress: float) -> None:
    """Set the gate's target for this point of the training, and harden it when it is time.

    The target stays at all channels until `config.warmup`, then falls in a straight line to the
    budget at `config.harden_at`.

    Args:
        gate: The gate in training.
        config: Gives the schedule; without a budget nothing happens.
        progress: Fraction of the training done, in [0, 1].
    """
    if config.budget is None or gate.is_hard:
        return
    if progress >= config.harden_at:
        gate.harden(config.budget)
        return
    if progress <= config.warmup:
        return
    fallen = (progress - config.warmup) / (config.harden_at - config.warmup)
    gate.target.fill_(gate.num_channels + (config.budget - gate.num_channels) * fallen)
