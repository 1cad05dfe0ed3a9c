"""`pelap evaluate`: one pass over the test pictures, evaluation.json, and pictures to show."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.cache import cache_home
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.core.files import write_whole
from pelap.core.records import to_json
from pelap.data.load import CIFAR10_CLASSES, load_pictures
from pelap.data.pictures import Pictures, to_batch
from pelap.families.conditioned import Told, tell_classes
from pelap.families.latent_axes import by_channel
from pelap.measure.channel_sets import by_class, describe_sets
from pelap.measure.collapse import CollapseEvidence, judge
from pelap.measure.counts import count_parameters
from pelap.measure.encoded_batches import Batches
from pelap.measure.evaluation_record import ChannelSets, Evaluation, MaskHistogram, SamplerUse
from pelap.measure.machine import machine, versions
from pelap.measure.noise_levels import BATCH_SIZE, diagnose
from pelap.measure.quality import OF_CLASSES, QualityPictures, check_metrics, measure_quality
from pelap.measure.run_sampling import draw_samples, is_adaptive, load_system, sample_labels
from pelap.measure.spread import PictureSums
from pelap.method.borrowing import meet_budget
from pelap.method.losses import channel_mean, gaussian_diffusion_loss, psnr_db
from pelap.method.sampling import to_uint8
from pelap.method.step import in_precision, make_draws, uses_bf16
from pelap.method.system import Draws, LatentDiffusion

NUM_SHOWN = 8
"""Pictures kept for the reconstruction figure."""
NUM_SAMPLES_KEPT = 64
"""Samples that are kept for the report, however many are measured."""
NUM_DIAGNOSED = 500
"""Pictures on which the recovery of the clean latent is measured."""
NUM_BINS = 40
"""Bins of the mask histograms over [0, 1]."""


@dataclass
class Measurements(PictureSums):
    """Sums over the test pictures."""

    diffusion: float = 0.0
    """Noise loss with the latents, summed over pictures."""
    zero_latent_diffusion: float = 0.0
    """Noise loss with zeros in their place."""
    reconstructions: list[Tensor] = field(default_factory=list)
    """uint8 (B, 3, H, W) a batch, if they were asked for."""
    shown: dict[str, Tensor] = field(default_factory=dict)
    """Images (NUM_SHOWN, 3, H, W) in [-1, 1] by name."""


@torch.no_grad()
def measure(
    system: LatentDiffusion,
    pictures: Pictures,
    config: RunConfig,
    device: torch.device,
    *,
    keep_reconstructions: bool = False,
) -> Measurements:
    """Run the system over all pictures with fixed noise and timesteps, in float32.

    Latents are sampled as in training. The zero-latent loss uses the same noise and timesteps with
    zeros in the latent's place.
    """
    sums = Measurements()
    used, everything = config.evaluation, torch.arange(len(pictures))
    batches = Batches(pictures, everything, used.batch_size, used.seed)
    for number in range(len(batches)):
        images, labels = batches.fetch(number, device)  # (B, 3, H, W), (B,)
        draws = make_draws(config, len(images), "validation", number, device, seed=used.seed)
        latents = system.encode(images, draws.latent_noise).latents  # (B, C, h, w)
        mask = system.mask(latents).mask  # (B, C)
        masked_reconstruction = system.decode(latents * by_channel(mask, latents))  # (B, 3, H, W)
        reconstruction = masked_reconstruction
        if not system.options.decoder_sees_mask:
            reconstruction = system.decode(latents)  # (B, 3, H, W)

        sums.add(images, latents, mask, reconstruction, masked_reconstruction)
        told, size = tell_classes(system.denoiser, labels.to(device)), len(images)
        sums.diffusion += size * _noise_loss(system, latents, mask, draws, told)
        sums.zero_latent_diffusion += size * _noise_loss(system, 0 * latents, mask, draws, told)
        if keep_reconstructions:
            sums.reconstructions.append(to_uint8(reconstruction).cpu())
        if not sums.shown:
            sums.shown = {
                "originals": images[:NUM_SHOWN],
                "reconstructions": reconstruction[:NUM_SHOWN],
                "masked_reconstructions": masked_reconstruction[:NUM_SHOWN],
            }
    return sums


def _noise_loss(
    system: LatentDiffusion, latents: Tensor, mask: Tensor, draws: Draws, told: Told | None
) -> float:
    noisy, _ = system.noised(latents, draws.noise, draws.timesteps, mask)
    error = (system.predict_noise(noisy, draws.timesteps, told) - draws.noise).square()
    return float(channel_mean(error, mask if system.options.open_channels_only else None))


def evaluate_run(
    folder: RunFolder, config: RunConfig | None = None, metrics: Sequence[str] = ()
) -> Evaluation:
    """Evaluate a run's best model on the test split and write evaluation.json.

    Noise and timesteps come from `config.evaluation.seed`, so two runs are comparable and a second
    call gives the same numbers.

    Args:
        folder: The run.
        config: The run's own by default; for pictures that moved, another sampler, or another
            budget of a nested gate.
        metrics: Names of quality metrics to add, see `pelap.measure.quality`.

    Raises:
        ConfigError: If a metric is unknown, or the gate cannot meet the config's budget.
        RunError: If the run has no model yet.
        DataError: If its pictures cannot be read.
    """
    with folder.held():
        return _evaluate(folder, config or folder.config(), metrics)


def _evaluate(folder: RunFolder, config: RunConfig, metrics: Sequence[str]) -> Evaluation:
    device = torch_device()
    check_metrics(metrics, config.evaluation.extractor, device)
    _check_judged(metrics, config)
    system = load_system(folder, device)
    meet_budget(system, config.gate.budget, folder.config().gate.budget)
    test = load_pictures(config.data, config.run.seed).test
    sums = measure(system, test, config, device, keep_reconstructions=bool(metrics))
    sets = describe_sets(system, test, sums.masks, config) if is_adaptive(system) else None
    labels = sample_labels(config)
    with in_precision(config.evaluation.precision, device):
        samples = draw_samples(system, config, sets, labels=labels)
    evaluation = _summarise(folder.name, system, test, sums, sets, config)
    if metrics:
        originals = test.fetch(torch.arange(len(test)))
        pictures = QualityPictures(originals, torch.cat(sums.reconstructions), samples)
        if test.class_names == CIFAR10_CLASSES:
            pictures = replace(pictures, labels=test.labels, sample_labels=labels)
        used, how = config.evaluation, evaluation.sampler
        quality = measure_quality(
            metrics,
            pictures,
            used.extractor,
            device=device,
            cache=cache_home(),
            num_bootstraps=used.num_bootstraps,
            seed=used.seed,
        )
        told: Any = {"sampler": how.name, "num_steps": how.num_steps, "guidance": how.guidance}
        quality = {label: replace(value, **told) for label, value in quality.items()}
        evaluation = replace(evaluation, quality=quality)
    shown = {name: to_uint8(images) for name, images in sums.shown.items()}
    _write(folder, evaluation, shown | {"samples": samples[:NUM_SAMPLES_KEPT]})
    return evaluation


def _check_judged(metrics: Sequence[str], config: RunConfig) -> None:
    judged = [name for name in metrics if name in OF_CLASSES]
    if judged and (config.data.source, config.data.size) != ("cifar10", 32):
        raise ConfigError(f"Metric {judged[0]} knows CIFAR-10 at 32 pixels only.")
    if "class_accuracy" in judged and not config.network.num_classes:
        raise ConfigError("Metric class_accuracy needs a denoiser that is told classes.")


def _summarise(
    name: str,
    system: LatentDiffusion,
    pictures: Pictures,
    sums: Measurements,
    sets: ChannelSets | None,
    config: RunConfig,
) -> Evaluation:
    """All but the quality of pictures."""
    n, used, threshold = sums.num_pictures, config.evaluation, config.gate.active_threshold
    masks = torch.cat(sums.masks)  # (N, C)
    evidence = _collapse_evidence(system, pictures, sums, config)
    alphas = system.scheduler.alphas_cumprod.double()
    return Evaluation(
        run=name,
        preset=config.preset,
        split="test",
        num_pictures=n,
        num_parameters=count_parameters(system),
        diffusion_loss=sums.diffusion / n,
        zero_latent_diffusion_loss=sums.zero_latent_diffusion / n,
        gaussian_diffusion_loss=float(gaussian_diffusion_loss(sums.masked_latents.std(), alphas)),
        reconstruction_mse_sum=sums.squared_error / n,
        reconstruction_psnr_db=psnr_db(sums.squared_error / sums.num_values),
        masked_reconstruction_mse_sum=sums.masked_squared_error / n,
        masked_reconstruction_psnr_db=psnr_db(sums.masked_squared_error / sums.num_values),
        relative_error=evidence.relative_error,
        mask_mean=evidence.mask_mean,
        active_channels=float((masks > threshold).sum(dim=1).float().mean()),
        active_threshold=threshold,
        mask_mean_by_class={
            name: masks[of_class].mean(dim=0).tolist()
            for name, of_class in by_class(pictures).items()
        },
        mask_histogram=MaskHistogram(
            np.linspace(0, 1, NUM_BINS + 1).round(6).tolist(),
            [torch.histc(channel, NUM_BINS, 0.0, 1.0).long().tolist() for channel in masks.T],
        ),
        latent_std=sums.latents.std().tolist(),
        masked_latent_std=evidence.masked_latent_std,
        collapse=judge(evidence),
        sampler=SamplerUse(
            used.sampler,
            used.num_steps,
            used.num_samples,
            used.seed,
            used.guidance if config.network.num_classes else None,
            None if sets is None else "static",
            "bf16" if uses_bf16(used.precision, torch_device()) else None,
        ),
        versions=versions(),
        machine=machine(),
        channel_sets=sets,
    )


def _collapse_evidence(
    system: LatentDiffusion, pictures: Pictures, sums: Measurements, config: RunConfig
) -> CollapseEvidence:
    """What the verdict is made of; the clean latent is recovered on the first pictures."""
    indices = torch.arange(min(NUM_DIAGNOSED, len(pictures)))
    images = to_batch(pictures.fetch(indices), next(system.parameters()).device)
    labels = pictures.labels[indices].to(images.device).split(BATCH_SIZE)
    diagnosis = diagnose(
        system,
        images,
        num_levels=2,
        seed=config.evaluation.seed,
        tell=lambda number: tell_classes(system.denoiser, labels[number]),
    )
    return CollapseEvidence(
        sums.mask_mean.tolist(),
        sums.masked_latents.std().tolist(),
        sums.diffusion / sums.num_pictures,
        sums.zero_latent_diffusion / sums.num_pictures,
        diagnosis.recovery[0].relative_error,
        diagnosis.least_snr_db,
    )


def _write(folder: RunFolder, evaluation: Evaluation, shown: dict[str, Tensor]) -> None:
    arrays: Any = {name: x.permute(0, 2, 3, 1).cpu().numpy() for name, x in shown.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_whole(folder.pictures_path, packed.getvalue())
    write_whole(folder.evaluation_path, to_json(evaluation, indent=2).encode())
