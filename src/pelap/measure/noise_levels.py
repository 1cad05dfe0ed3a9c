"""A denoiser's losses over the timesteps, and how much of the latent it recovers.

The mean noise loss hides at which noise levels a denoiser works, and falls when the latent shrinks.
At fixed signal-to-noise ratios and in the latent's own variance, neither can hide.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pelap.measure.collapse import CollapseEvidence, judge
from pelap.measure.diagnosis_record import Diagnosis, LevelLosses, SnrError
from pelap.measure.spread import (
    LatentImages,
    Signal,
    Spread,
    encode_all,
    find_signal,
    measure_spread,
)
from pelap.method.losses import channel_mean, psnr_db
from pelap.method.system import LatentDiffusion

SNR_LEVELS_DB = (0.0, 3.0, 6.0, 10.0, 15.0, 20.0)
"""Signal-to-noise ratios at which the clean latent is recovered."""
SNR_TOLERANCE_DB = 1.0
"""A timestep further from a ratio than this does not stand for it."""
LEAST_SQUARED_ERROR = 1e-12
"""Squared error a value below which float32 cannot tell two images apart."""
BATCH_SIZE = 250


@torch.no_grad()
def diagnose(
    system: LatentDiffusion,
    images: Tensor | Iterable[Tensor],
    *,
    num_levels: int = 20,
    seed: int = 0,
) -> Diagnosis:
    """Measure a denoiser at timesteps spread evenly from the first to the last; judge the model.

    Latents are drawn as in training. Every timestep sees the same noise, with the latents and with
    zeros in their place. Puts the system into evaluation mode.

    Args:
        system: The model, on the device where it is to run.
        images: (N, 3, H, W) in [-1, 1], or batches of such, which are gone through twice.
        num_levels: Timesteps.
        seed: Of the noise.

    Raises:
        ValueError: If there are no images, or they cannot be gone through twice.
    """
    system.eval()
    batches = images.split(BATCH_SIZE) if isinstance(images, Tensor) else images
    spread = measure_spread(system, encode_all(system, batches, seed))
    signal = find_signal(spread, system.options.open_channels_only)
    snr_db = signal.snr_db(system.scheduler.alphas_cumprod)  # (T,)
    levels = torch.linspace(0, len(snr_db) - 1, num_levels).round().int().unique().tolist()
    at_ratio = {ratio: _nearest_timestep(snr_db, ratio) for ratio in SNR_LEVELS_DB}
    curves = _Curves({t: _Sums() for t in (*levels, *at_ratio.values()) if t is not None})
    for batch in encode_all(system, batches, seed):
        _add(curves, system, batch, signal)
    if curves.num_pictures != spread.num_pictures:
        raise ValueError("The images are gone through twice: give a list, not an iterator.")
    return _summarise(
        spread,
        [_level(system, curves, signal, t, float(snr_db[t])) for t in levels],
        [_recovery(curves, signal, ratio, t) for ratio, t in at_ratio.items()],
        float(snr_db[-1]),
        _notes(snr_db, at_ratio),
    )


def _nearest_timestep(snr_db: Tensor, ratio: float) -> int | None:
    distance = (snr_db - ratio).abs()
    timestep = int(distance.argmin())
    return timestep if float(distance[timestep]) <= SNR_TOLERANCE_DB else None


@dataclass
class _Sums:
    """Sums over the pictures at one timestep."""

    diffusion: float = 0.0
    zero_latent_diffusion: float = 0.0
    squared_error: float = 0.0
    """Of the recovered clean latents, mean over the values of the carried channels."""


@dataclass
class _Curves:
    by_timestep: dict[int, _Sums]
    num_pictures: int = field(default=0)


def _add(curves: _Curves, system: LatentDiffusion, batch: LatentImages, signal: Signal) -> None:
    size, zeros = len(batch.images), torch.zeros_like(batch.latents)
    carried = signal.carried.to(batch.latents.device)
    curves.num_pictures += size
    for timestep, sums in curves.by_timestep.items():
        timesteps = torch.full((size,), timestep, device=zeros.device)
        noisy, _ = system.noised(batch.latents, batch.noise, timesteps, batch.mask)
        noise = system.predict_noise(noisy, timesteps)  # (B, C, h, w)
        error = (_recover(system, batch, noisy, noise, timestep) - batch.masked).square()
        sums.squared_error += size * float(error[:, carried].mean())
        sums.diffusion += size * _noise_loss(system, batch, noise)
        noisy, _ = system.noised(zeros, batch.noise, timesteps, batch.mask)
        noise = system.predict_noise(noisy, timesteps)
        sums.zero_latent_diffusion += size * _noise_loss(system, batch, noise)


def _noise_loss(system: LatentDiffusion, batch: LatentImages, noise: Tensor) -> float:
    open_only = system.options.open_channels_only and bool(batch.mask.sum() > 0)
    return float(channel_mean((noise - batch.noise).square(), batch.mask if open_only else None))


def _recover(
    system: LatentDiffusion, batch: LatentImages, noisy: Tensor, noise: Tensor, timestep: int
) -> Tensor:
    """The clean masked latents (B, C, h, w) that the predicted noise amounts to."""
    alpha = system.scheduler.alphas_cumprod[timestep].to(noisy.device)
    if system.options.open_channels_only:  # the mask has scaled the noise as well
        noise = noise * batch.mask[:, :, None, None]
    return (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def _level(
    system: LatentDiffusion, curves: _Curves, signal: Signal, timestep: int, snr_db: float
) -> LevelLosses:
    sums, n = curves.by_timestep[timestep], curves.num_pictures
    return LevelLosses(
        timestep,
        snr_db if math.isfinite(snr_db) else None,
        sums.diffusion / n,
        sums.zero_latent_diffusion / n,
        signal.gaussian_loss(float(system.scheduler.alphas_cumprod[timestep])),
    )


def _recovery(curves: _Curves, signal: Signal, ratio: float, timestep: int | None) -> SnrError:
    linear = 1 / (1 + 10 ** (ratio / 10))
    if timestep is None:
        return SnrError(ratio, None, None, linear)
    squared_error = curves.by_timestep[timestep].squared_error / curves.num_pictures
    variance = float(signal.variance[signal.carried].mean())
    return SnrError(ratio, timestep, squared_error / variance, linear)


def _notes(snr_db: Tensor, at_ratio: dict[float, int | None]) -> list[str]:
    missing = [f"{ratio:g}" for ratio, timestep in at_ratio.items() if timestep is None]
    if not missing:
        return []
    return [
        f"no timestep has a signal-to-noise ratio of {', '.join(missing)} dB: with latents of this "
        f"size it goes from {float(snr_db.max()):.1f} down to {float(snr_db.min()):.1f} dB"
    ]


def _summarise(
    spread: Spread,
    levels: list[LevelLosses],
    recovery: list[SnrError],
    least_snr_db: float,
    notes: list[str],
) -> Diagnosis:
    n = spread.num_pictures
    diffusion, zero_latent, gaussian = (
        sum(getattr(level, name) for level in levels) / len(levels)
        for name in ("diffusion_loss", "zero_latent_diffusion_loss", "gaussian_diffusion_loss")
    )
    mask_mean, masked_std = spread.mask_mean.tolist(), spread.masked.std().tolist()
    at_zero_db = recovery[0].relative_error
    least = least_snr_db if math.isfinite(least_snr_db) else None
    evidence = CollapseEvidence(mask_mean, masked_std, diffusion, zero_latent, at_zero_db, least)
    return Diagnosis(
        num_pictures=n,
        levels=levels,
        recovery=recovery,
        diffusion_loss=diffusion,
        zero_latent_diffusion_loss=zero_latent,
        gaussian_diffusion_loss=gaussian,
        latent_std=spread.latents.std().tolist(),
        masked_latent_std=masked_std,
        mask_mean=mask_mean,
        reconstruction_psnr_db=_psnr_db(spread.squared_error / n),
        masked_reconstruction_psnr_db=_psnr_db(spread.masked_squared_error / n),
        least_snr_db=least,
        collapse=judge(evidence),
        notes=notes,
    )


def _psnr_db(squared_error: float) -> float:
    return psnr_db(max(squared_error, LEAST_SQUARED_ERROR))
