"""A watch over anybody's training loop: does the mask close, do the latents shrink?

The noise loss falls in both cases, so what reaches the denoiser is watched instead. No torch here
before there is a tensor to look at: a record can be read without it.
"""

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pelap.core.errors import ConfigError, RunError
from pelap.core.json_values import JsonObject
from pelap.measure.collapse import OPEN_MASK, CollapseEvidence, CollapseVerdict, judge

if TYPE_CHECKING:
    from torch import Tensor


class CollapseWarning(UserWarning):
    """The mask has closed, the latents have shrunk, or the figures are no numbers any more."""


@dataclass(frozen=True)
class WatchRecord:
    """What a watch sees now: running means of the last steps. Lists are per channel."""

    num_updates: int
    mask_mean: list[float]
    """1 without a mask."""
    masked_latent_std: list[float]
    """Of the latents that reach the denoiser, beside noise of 1."""
    diffusion_loss: float | None
    """None where the watch was not told."""
    gaussian_diffusion_loss: float | None
    """Closed form: what the best linear predictor has for independent Gaussian latents of this
    spread, mean over the open channels; None where the watch knows no forward process."""
    unit_diffusion_loss: float | None
    """The same for latents of standard deviation 1: what a denoiser has to work for."""
    collapse: CollapseVerdict

    def as_dict(self) -> JsonObject:
        """Nested plain values, as JSON has them."""
        return asdict(self)


class CollapseWatch:
    """Watches the latents and masks of a training, and warns once when they carry nothing.

    Call `update` once a step. Every `every` steps it judges as `pelap diagnose` does of masks and
    deviations; the first time they are collapsed or shrunken, one `CollapseWarning` of one line
    says so with figures. Between judgements nothing waits for the device.

    Args:
        alphas_cumprod: ᾱ_t of the forward process, (T,), e.g. a scheduler's; gives the floors that
            a noise loss is to be held against. None for none.
        every: Steps from one judgement to the next, and that the running means look back.

    Raises:
        ConfigError: If `every` is below 1.
    """

    def __init__(self, alphas_cumprod: "Tensor | None" = None, every: int = 100):
        if every < 1:
            raise ConfigError(f"every is {every}: it must be at least 1 step.")
        self.alphas_cumprod = alphas_cumprod
        self.every = every
        self.num_updates = 0
        self._has_warned = False
        self._means: dict[str, Any] = {}

    def update(
        self,
        latents: "Tensor",
        mask: "Tensor | None" = None,
        diffusion_loss: "Tensor | float | None" = None,
    ) -> None:
        """Take in a step.

        Args:
            latents: What reaches the denoiser before noise, so after mask and scale; (B, C, …).
            mask: In [0, 1], (B, C) or (C,); None for none.
            diffusion_loss: Mean squared error of the predicted noise over the open channels.
        """
        values = latents.detach().float().flatten(2)  # (B, C, N)
        mean = values.mean(dim=(0, 2))  # (C,)
        opened = mean.new_ones(1, len(mean)) if mask is None else mask.detach().float()
        self.num_updates += 1
        self._blend("mask", opened.reshape(-1, len(mean)).mean(dim=0))
        self._blend("mean", mean)
        self._blend("square", values.square().mean(dim=(0, 2)))
        if diffusion_loss is not None:
            is_number = isinstance(diffusion_loss, float | int)
            self._blend("loss", diffusion_loss if is_number else diffusion_loss.detach())
        if self.num_updates % self.every == 0 and not self._has_warned:
            self._warn()

    def verdict(self) -> WatchRecord:
        """What the watch sees now.

        Raises:
            RunError: If a figure is not finite.
            ValueError: If there was no update.
        """
        if not self.num_updates:
            raise ValueError("The watch has seen nothing: call update once a step.")
        means = self._means
        std = (means["square"] - means["mean"].square()).clamp(min=0).sqrt()  # (C,)
        masks, stds = means["mask"].tolist(), std.tolist()
        loss = float(means["loss"]) if "loss" in means else None
        found = judge(CollapseEvidence(masks, stds, loss))
        floor, unit = self._floors(std, means["mask"])
        if found.verdict != "healthy" and floor is not None:
            said = "" if loss is None else f"the noise loss is {loss:.4f}; "
            reason = (
                f"{said}latents of this size allow {floor:.4f}, latents of unit size {unit:.4f}: "
                "a low loss tells of small latents"
            )
            found = CollapseVerdict(found.verdict, [*found.reasons, reason])
        return WatchRecord(self.num_updates, masks, stds, loss, floor, unit, found)

    def _blend(self, name: str, value: Any) -> None:
        """The first steps count alike, later ones with 1/`every`."""
        old = self._means.get(name, value)
        self._means[name] = old + (value - old) / min(self.num_updates, self.every)

    def _floors(self, std: "Tensor", mask: "Tensor") -> tuple[float | None, float | None]:
        if self.alphas_cumprod is None:
            return None, None
        from pelap.method.losses import gaussian_diffusion_loss

        alphas = self.alphas_cumprod.to(std)
        is_open = mask >= OPEN_MASK
        open_std = std[is_open] if is_open.any() else std
        floors = [gaussian_diffusion_loss(s, alphas) for s in (open_std, std.new_ones(1))]
        return float(floors[0]), float(floors[1])

    def _warn(self) -> None:
        from pelap.core.processes import process_index

        try:
            found = self.verdict().collapse
            line = f"{found.verdict}: {'; '.join(found.reasons)}"
            self._has_warned = found.verdict in ("collapsed", "shrunken")
        except RunError as error:
            line, self._has_warned = str(error), True
        if self._has_warned and process_index() == 0:
            warnings.warn(
                f"after {self.num_updates} steps the model is {line}", CollapseWarning, stacklevel=3
            )
