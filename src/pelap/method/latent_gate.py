"""A gate for latents that stands in anybody's training loop, and that no loss can cheat."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from pelap.config.run_config import GateConfig
from pelap.core.errors import ConfigError
from pelap.method.gates import GATES, GateOutput, follow_budget
from pelap.method.importance import ImportancePredictor
from pelap.method.losses import budget_loss
from pelap.method.normalizer import LatentNormalizer, fold_normalizer, write_statistics

LatentGateKind = Literal["hard_concrete", "top_k", "nested"]
"""Without sigmoid: its mask is never 0, so larger latents would make up for a smaller mask."""
WARMUP = 0.2
"""Part of `harden_after` before the number of open channels begins to fall."""


class GatedLatents(NamedTuple):
    """What goes on in place of latents, all of their shape (B, C, …)."""

    to_decode: Tensor
    """In the encoder's scale, closed channels at their mean; teaches encoder and gate."""
    to_denoise: Tensor
    """Open channels with mean 0 and variance 1, closed ones 0; detached."""
    noise: Tensor
    """To mix into `to_denoise`, 0 in closed channels: whatever a scheduler makes of the two (noisy
    latents, velocity, a flow) is 0 there too."""


class LatentGate(nn.Module):
    """Learns which latent channels to keep, between your encoder and your decoder and denoiser.

    Predictor, gate and what stands in for closed channels. One set of channels serves all data, so
    that the closed ones can be removed. The mask is random while the gate learns; after
    `harden_after` steps the set is final and every mask is 0 or 1.

    A joint loss would rather close the mask, or shrink the latents until the noise drowns them
    (docs/collapse.md), than learn what matters. Here neither gains anything: latents are normalised
    by running statistics; the denoiser sees each channel whole or not at all, and its gradient ends
    here; the decoder gets no channel that the denoiser lacks. Only the reconstruction and `loss`
    teach the gate, and `loss` does not reach the encoder. For that your loop must

    - hand the parameters of the gate to the optimizer, and call it in training mode once a step;
    - decode `to_decode`, and give `to_denoise` and `noise` to the forward process, nothing else;
    - add `loss()` to what it minimises.

    Report the noise loss by `diffusion_loss`: a mean over all channels falls as channels close.
    Afterwards `fold_into` gives the autoencoder the scale that the denoiser knows, and
    `prune(keep=gate.kept())` removes the closed channels. It puts in their place what this gate
    did, so outputs stay as they are, but for a zero-padded decoder's edges (docs/prune.md).

    Args:
        channels: C of the latents.
        budget: Channels to keep. None lets the reconstruction decide against `sparsity`, and keeps
            those that are then more open than closed (kind hard_concrete only).
        kind: hard_concrete (arXiv 1712.01312), top_k, or nested (the first channels are kept); see
            docs/gates.md.
        harden_after: Steps in training mode after which the set is final.
        sparsity: Weight of the expected fraction of open channels, without a budget.
        speed: How much faster than your optimizer's rate the scores learn, under Adam and the like.

    Raises:
        ConfigError: If one of these is impossible.
    """

    step: Tensor

    def __init__(
        self,
        channels: int,
        budget: int | None = None,
        kind: LatentGateKind = "hard_concrete",
        *,
        harden_after: int = 1000,
        sparsity: float = 0.01,
        speed: float = 30.0,
    ):
        super().__init__()
        _check(channels, budget, kind, harden_after)
        self.channels, self.budget, self.harden_after = channels, budget, harden_after
        self.sparsity, self.speed = sparsity, speed
        self.schedule = GateConfig(kind, False, budget, warmup=WARMUP, harden_at=1.0)
        self.normalizer = LatentNormalizer(channels)
        self.predictor = ImportancePredictor(channels, initial_score=3.0 / speed)
        self.gate = GATES[kind](channels, adaptive=False)
        if budget is None:  # the wanted number is 0, at a fixed weight instead of a multiplier
            self.gate.target.zero_()
            self.gate.multiplier_rate = 0.0
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._scores = torch.zeros(1, channels)
        self._output = GateOutput(torch.ones(1, channels))

    def __getstate__(self) -> dict[str, Any]:
        """For copies: torch copies nothing that has a gradient still to go back."""
        return self.__dict__ | {"_scores": self._scores.detach(), "_output": GateOutput(self.mask)}

    def forward(self, latents: Tensor, noise: Tensor | None = None) -> GatedLatents:
        """Gate a batch, and in training mode learn from it.

        Args:
            latents: As your encoder draws them, (B, C, …) with one axis or more behind C.
            noise: Standard normal, same shape; drawn here if None.

        Raises:
            ValueError: If the latents have another number of channels.
        """
        shape, dtype = latents.shape, latents.dtype
        if len(shape) < 3 or shape[1] != self.channels:
            raise ValueError(f"Latents are {tuple(shape)}: wanted (B, {self.channels}, …).")
        normal = self.normalizer(latents.float().flatten(2)[..., None])  # (B, C, N, 1)
        self._scores = self.speed * self.predictor(normal.detach())  # (B, C)
        if self.training:
            self._follow_schedule()
        self._output = self.gate(self._scores, torch.rand_like(self._scores))  # mask (B, C)
        masked = normal * self._output.mask[:, :, None, None]  # (B, C, N, 1)
        seen = normal.detach() * self.is_open[:, :, None, None]  # (B, C, N, 1)
        noise = torch.randn_like(latents) if noise is None else noise
        return GatedLatents(
            self.normalizer.inverse(masked).reshape(shape).to(dtype),
            seen.reshape(shape).to(dtype),
            noise * self.is_open.view(shape[:2] + (1,) * (len(shape) - 2)),
        )

    @property
    def mask(self) -> Tensor:
        """Of the last batch, (B, C) in [0, 1], without gradient."""
        return self._output.mask.detach()

    @property
    def is_open(self) -> Tensor:
        """Which channels of the last batch anything passes through, bool (B, C)."""
        return self.mask > 0

    @property
    def state(self) -> dict[str, Tensor]:
        """For `safetensors.torch.save_file`; `load_state_dict(load_file(path))` goes on from it."""
        return {name: value.contiguous() for name, value in self.state_dict().items()}

    def loss(self) -> Tensor:
        """What to add to the loss of the last batch, a scalar: the Lagrangian of the budget, or
        without one `sparsity` times the expected fraction of open channels. Once the set is final
        it is 0, with a gradient of 0, so that training with several processes misses none."""
        found = self._output
        if found.num_open is None or found.multiplier is None:
            return 0.0 * self._scores.sum()
        if self.budget is None:
            return self.sparsity * found.num_open / self.channels
        return budget_loss(found.num_open, found.target, found.multiplier, self.channels)

    def diffusion_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean squared error over the open channels of the last batch, a scalar, of prediction and
        target (B, C, …): closing a channel lowers nothing."""
        error = (prediction.float() - target.float()).square().flatten(2).mean(dim=2)  # (B, C)
        return (error * self.is_open).sum() / self.is_open.sum().clamp(min=1)

    def kept(self) -> tuple[int, ...]:
        """The channels to keep, rising: what `prune(keep=…)` takes. Before the set is final, those
        that would be kept if it were now."""
        gate = self.gate
        mask = gate.kept if gate.is_hard else gate.hard_mask(gate.mean_scores[None], self._wanted)
        return tuple(mask.flatten().nonzero().flatten().tolist())

    def fold_into(self, autoencoder: AutoencoderKL) -> None:
        """Move the scale of the latents into the autoencoder, so that they come out normalised.

        Exact where 1×1 convolutions stand around the latents. Otherwise its config tells the scale
        (`latents_mean`, `latents_std`), and the latents stay as they are.
        """
        if None in (autoencoder.quant_conv, autoencoder.post_quant_conv):
            write_statistics(self.normalizer, autoencoder)
            return
        fold_normalizer(self.normalizer, autoencoder)
        self.normalizer.mean.zero_()
        self.normalizer.var.fill_(1)

    @property
    def _wanted(self) -> int:
        return self.budget or max(1, int((self.gate.mean_scores > 0).sum()))

    def _follow_schedule(self) -> None:
        progress = int(self.step) / self.harden_after
        self.step += 1
        follow_budget(self.gate, self.schedule, progress)
        if self.budget is None and progress >= 1 and not self.gate.is_hard:
            self.gate.harden(self._wanted)


def _check(channels: int, budget: int | None, kind: object, harden_after: int) -> None:
    if kind not in (known := get_args(LatentGateKind)):
        raise ConfigError(f"kind is {kind!r}: it must be one of {', '.join(known)}.")
    if budget is None and kind != "hard_concrete":
        raise ConfigError(f"kind is {kind}: it needs a budget, the number of channels to keep.")
    if budget is not None and not 1 <= budget <= channels:
        raise ConfigError(f"budget is {budget}: it must be from 1 to {channels} channels.")
    if harden_after < 1:
        raise ConfigError(f"harden_after is {harden_after}: it must be at least 1 step.")
