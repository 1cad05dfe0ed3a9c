"""A denoiser's losses over the timesteps, and how much of the latent it recovers.

The mean noise loss hides at which noise levels a denoiser works, and falls when the latent shrinks.
At fixed signal-to-noise ratios and in the latent's own variance, neither can hide.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pelap.families.latent_axes import by_channel
from pelap.measure.collapse import CollapseEvidence, judge
from pelap.measure.diagnosis_record import Diagnosis, LevelLosses, SnrError
from pelap.measure.spread import (
    LatentImages,
    PictureSums,
    Tell,
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
    tell: Tell | None = None,
) -> Diagnosis:
    """Measure a denoiser at timesteps spread evenly from the first to the last; judge the model.

    Latents are drawn as in training. Every timestep sees the same noise, with the latents and with
    zeros in their place. Puts the system into evaluation mode.

    Args:
        system: The model, on the device where it is to run.
        images: (N, 3, H, W) in [-1, 1], or batches of such, which are gone through twice.
        num_levels: Timesteps.
        seed: Of the noise.
        tell: What the denoiser is told of each batch; nothing by default.

    Raises:
        ValueError: If there are no images, or they cannot be gone through twice.
    """
    system.eval()
    batches = images.split(BATCH_SIZE) if isinstance(images, Tensor) else images
    spread = measure_spread(system, encode_all(system, batches, seed, tell))
    signal = find_signal(spread, system.options.open_channels_only)
    snr_db = signal.snr_db(system.scheduler.alphas_cumprod)  # (T,)
    evenly = torch.linspace(0, len(snr_db) - 1, num_levels).round().int().unique().tolist()
    at_ratio = {ratio: _nearest_timestep(snr_db, ratio) for ratio in SNR_LEVELS_DB}
    timesteps = [t for t in (*evenly, *at_ratio.values()) if t is not None]
    sums = {t: torch.zeros(3, dtype=torch.float64) for t in timesteps}
    num_pictures = 0
    for batch in encode_all(system, batches, seed, tell):
        num_pictures += len(batch.images)
        for timestep, total in sums.items():
            total += len(batch.images) * _errors(system, batch, timestep, signal.carried)
    if num_pictures != spread.num_pictures:
        raise ValueError("The images are gone through twice: give a list, not an iterator.")
    means = {t: (total / num_pictures).tolist() for t, total in sums.items()}
    alphas = system.scheduler.alphas_cumprod
    levels = [
        LevelLosses(t, _finite(snr_db[t]), loss, zero_loss, signal.gaussian_loss(float(alphas[t])))
        for t, (loss, zero_loss, _) in ((t, means[t]) for t in evenly)
    ]
    variance = float(signal.variance[signal.carried].mean())
    recovery = []
    for ratio, t in at_ratio.items():
        error = None if t is None else means[t][2] / variance
        recovery.append(SnrError(ratio, t, error, 1 / (1 + 10 ** (ratio / 10))))
    return _summarise(spread, levels, recovery, snr_db)


def to_db(squared_error: float | Tensor) -> float:
    """PSNR in dB of a mean squared error a value, images in [-1, 1]; at most 126 dB."""
    return psnr_db(max(float(squared_error), LEAST_SQUARED_ERROR))


def _nearest_timestep(snr_db: Tensor, ratio: float) -> int | None:
    distance = (snr_db - ratio).abs()
    timestep = int(distance.argmin())
    return timestep if float(distance[timestep]) <= SNR_TOLERANCE_DB else None


def _finite(value: Tensor) -> float | None:
    return float(value) if value.isfinite() else None


def _errors(system: LatentDiffusion, batch: LatentImages, timestep: int, carried: Tensor) -> Tensor:
    """Squared errors a value at one timestep, (3,) float64 on the CPU.

    Of the predicted noise with the latents; of the same with zeros in their place; of the recovered
    clean latents in the carried channels.
    """
    timesteps = torch.full((len(batch.images),), timestep, device=batch.latents.device)
    noisy, _ = system.noised(batch.latents, batch.noise, timesteps, batch.mask)
    noise = system.predict_noise(noisy, timesteps, batch.told)  # (B, C, h, w)
    zeros = torch.zeros_like(batch.latents)
    nothing, _ = system.noised(zeros, batch.noise, timesteps, batch.mask)
    from_zeros = system.predict_noise(nothing, timesteps, batch.told)
    open_only = system.options.open_channels_only
    weights = batch.mask if open_only and bool(batch.mask.sum() > 0) else None
    losses = [
        channel_mean((predicted - batch.noise).square(), weights)
        for predicted in (noise, from_zeros)
    ]
    alpha = system.scheduler.alphas_cumprod[timestep].to(noisy.device)
    if open_only:  # the mask has scaled the noise as well
        noise = noise * by_channel(batch.mask, noise)
    recovered = (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()  # (B, C, h, w)
    error = (recovered - batch.masked).square()
    return torch.stack([*losses, error[:, carried.to(error.device)].mean()]).double().cpu()


def _summarise(
    spread: PictureSums, levels: list[LevelLosses], recovery: list[SnrError], snr_db: Tensor
) -> Diagnosis:
    least = _finite(snr_db[-1])
    diffusion, zero_latent, gaussian = (
        sum(getattr(level, name) for level in levels) / len(levels)
        for name in ("diffusion_loss", "zero_latent_diffusion_loss", "gaussian_diffusion_loss")
    )
    missing = [f"{point.snr_db:g}" for point in recovery if point.timestep is None]
    note = (
        f"no timestep has a signal-to-noise ratio of {', '.join(missing)} dB: with latents of this "
        f"size it goes from {float(snr_db.max()):.1f} down to {float(snr_db.min()):.1f} dB"
    )
    mask_mean, masked_std = spread.mask_mean.tolist(), spread.masked_latents.std().tolist()
    at_zero_db = recovery[0].relative_error
    evidence = CollapseEvidence(mask_mean, masked_std, diffusion, zero_latent, at_zero_db, least)
    return Diagnosis(
        num_pictures=spread.num_pictures,
        levels=levels,
        recovery=recovery,
        diffusion_loss=diffusion,
        zero_latent_diffusion_loss=zero_latent,
        gaussian_diffusion_loss=gaussian,
        latent_std=spread.latents.std().tolist(),
        masked_latent_std=masked_std,
        mask_mean=mask_mean,
        reconstruction_psnr_db=to_db(spread.squared_error / spread.num_values),
        masked_reconstruction_psnr_db=to_db(spread.masked_squared_error / spread.num_values),
        collapse=judge(evidence),
        notes=[note] if missing else [],
        least_snr_db=least,
    )
