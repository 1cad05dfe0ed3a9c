"""How far a narrower denoiser's predictions are from the original's, on a few pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pelap.core.devices import torch_device
from pelap.core.network import as_network
from pelap.core.seeding import generator
from pelap.families.conditioned import Told
from pelap.families.registry import denoiser_ports
from pelap.measure.encoded_batches import Batches
from pelap.method.system import LatentDiffusion
from pelap.models.loaded import LoadedModel
from pelap.pruning.width.output_refit import OutputFit, calls_of

FEWEST_PICTURES, MOST_PICTURES = 8, 64
"""To fit, and as many others to measure."""
PLACES_A_FEATURE = 8
"""Places of latents to fit, for each of the last layer's inputs: fewer would fit the noise."""
NUM_LEVELS = 5
"""Noise levels at which each picture is compared."""
Regroup = Callable[[Tensor], Tensor]
"""From what the original's last layer gives to what another denoiser's should."""


def identity(output: Tensor) -> Tensor:
    """As it is."""
    return output


@dataclass(frozen=True)
class _Given:
    """Noisy latents at one noise level, and what the original makes of them."""

    noisy: Tensor
    """(B, C, …)."""
    steps: Tensor
    """(B,)."""
    told: Told | None
    prediction: Tensor
    """(B, C, …)."""
    output: Tensor
    """Of its last layer, as that layer gives it."""


class PredictionJudge:
    """Relative errors ‖p − q‖ / ‖q‖ of predictions p, with q those of a model's own denoiser.

    Before it is measured, a denoiser's last layer is fitted to the original's by least squares on
    other pictures, and keeps that fit if it is nearer then.

    Args:
        model: With a denoiser that can be run.
        batches: Pictures, with what the denoiser is told, of which the first are taken.
        merged: How many of the original's places are one place of the denoisers to come.
    """

    def __init__(self, model: LoadedModel, batches: Batches, merged: int = 1):
        self.model = model
        self.merged = merged
        self.device = torch_device()
        self.last = denoiser_ports(model.denoiser).output.layer  # type: ignore[arg-type]
        system = model.measured_system(self.device)
        half = min(self._num_pictures(system, batches), batches.num_pictures // 2)
        fitted, measured = batches.indices[:half], batches.indices[half : 2 * half]
        self.fitted = self._given(system, replace(batches, indices=fitted))
        self.measured = self._given(
            system, replace(batches, indices=measured, seed=batches.seed + 1)
        )

    def _num_pictures(self, system: LatentDiffusion, batches: Batches) -> int:
        """As many as the last layer's inputs ask for."""
        first = replace(batches, indices=batches.indices[:1]).encode(system, 0).latents
        places = first[0, 0].numel() * NUM_LEVELS
        weight: Any = self._last_layer(system).weight
        wanted = -(-PLACES_A_FEATURE * weight[0].numel() * self.merged // places)
        return min(max(wanted, FEWEST_PICTURES), MOST_PICTURES)

    @torch.no_grad()
    def _given(self, system: LatentDiffusion, batches: Batches) -> list[_Given]:
        num_timesteps = len(system.scheduler.alphas_cumprod)
        timesteps = [int((level + 0.5) * num_timesteps / NUM_LEVELS) for level in range(NUM_LEVELS)]
        found = []
        for number in range(len(batches)):  # all of them in each process, so that all agree
            batch = batches.encode(system, number)
            source = generator(batches.seed, "sampling", number, batch.latents.device)
            for timestep in timesteps:
                noise = torch.randn(batch.latents.shape, generator=source, device=source.device)
                steps = torch.full((len(noise),), timestep, device=noise.device)
                noisy, _ = system.noised(batch.latents, noise, steps)
                with calls_of(self._last_layer(system)) as calls:
                    prediction = system.predict(noisy, steps, batch.told)
                found.append(_Given(noisy, steps, batch.told, prediction, calls[-1][1]))
        return found

    def __call__(self, denoiser: nn.Module, regroup: Regroup = identity) -> float:
        """The error of another denoiser in the same model, whose last layer may be fitted.

        Args:
            denoiser: Its last layer may change.
            regroup: Where its last layer gives the same otherwise.
        """
        error = self._measure(denoiser)
        layer = as_network(denoiser.get_submodule(self.last))
        if error == 0 or not OutputFit.can(layer):
            return error
        before = layer.weight, layer.bias  # other networks may share them: never changed in place
        weight, bias = self._fit(denoiser, regroup)
        layer.weight = nn.Parameter(weight.to(before[0]), before[0].requires_grad)
        layer.bias = nn.Parameter(bias.to(before[1]), before[1].requires_grad)
        fitted = self._measure(denoiser)
        if fitted < error:
            return fitted
        layer.weight, layer.bias = before
        return error

    @torch.no_grad()
    def _fit(self, denoiser: nn.Module, regroup: Regroup) -> tuple[Tensor, Tensor]:
        system = replace(self.model, denoiser=denoiser).measured_system(self.device)
        layer = self._last_layer(system)
        fit = OutputFit(layer)
        for one in self.fitted:
            with calls_of(layer) as calls:
                system.predict(one.noisy, one.steps, one.told)
            fit.add(*calls[-1], regroup(one.output))
        return fit.solve()

    @torch.no_grad()
    def _measure(self, denoiser: nn.Module) -> float:
        system = replace(self.model, denoiser=denoiser).measured_system(self.device)
        error = size = 0.0
        for one in self.measured:
            found = system.predict(one.noisy, one.steps, one.told)
            error += float((found - one.prediction).double().square().sum())
            size += float(one.prediction.double().square().sum())
        return (error / size) ** 0.5

    def _last_layer(self, system: LatentDiffusion) -> nn.Module:
        return getattr(system.denoiser, "denoiser", system.denoiser).get_submodule(self.last)
