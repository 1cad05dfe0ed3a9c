"""`pelap evaluate`: evaluation.json and the pictures that the report shows."""

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder, write_whole
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.core.records import to_json
from pelap.data.load import CIFAR10_CLASSES, load_pictures
from pelap.data.pictures import Pictures, to_batch
from pelap.measure.channel_sets import by_class, describe_sets
from pelap.measure.collapse import CollapseEvidence, judge
from pelap.measure.counts import count_parameters
from pelap.measure.evaluation_record import (
    ChannelSets,
    Evaluation,
    MaskHistogram,
    MetricValue,
    SamplerUse,
)
from pelap.measure.features import cache_folder
from pelap.measure.machine import machine, versions
from pelap.measure.noise_levels import diagnose
from pelap.measure.quality import OF_CLASSES, QualityPictures, check_metrics, measure_quality
from pelap.measure.run_sampling import draw_samples, is_adaptive, load_system, sample_labels
from pelap.measure.test_pass import Measurements, measure
from pelap.method.borrowing import meet_budget
from pelap.method.losses import gaussian_diffusion_loss, psnr_db
from pelap.method.sampling import to_uint8
from pelap.method.system import LatentDiffusion

NUM_SAMPLES_KEPT = 64
"""Samples that are kept for the report, however many are measured."""
NUM_DIAGNOSED = 500
"""Pictures on which the recovery of the clean latent is measured."""
NUM_BINS = 40
"""Bins of the mask histograms over [0, 1]."""


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
    samples = draw_samples(system, config, sets, labels=labels)
    evaluation = _summarise(folder.name, system, test, sums, sets, config)
    if metrics:
        originals = test.fetch(torch.arange(len(test)))
        pictures = QualityPictures(originals, torch.cat(sums.reconstructions), samples)
        if test.class_names == CIFAR10_CLASSES:
            pictures = replace(pictures, labels=test.labels, sample_labels=labels)
        evaluation = replace(evaluation, quality=_quality(metrics, pictures, config, device))
    shown = {name: to_uint8(images) for name, images in sums.shown.items()}
    _write(folder, evaluation, shown | {"samples": samples[:NUM_SAMPLES_KEPT]})
    return evaluation


def _check_judged(metrics: Sequence[str], config: RunConfig) -> None:
    judged = [name for name in metrics if name in OF_CLASSES]
    if judged and (config.data.source, config.data.size) != ("cifar10", 32):
        raise ConfigError(f"Metric {judged[0]} knows CIFAR-10 at 32 pixels only.")
    if "class_accuracy" in judged and not config.network.num_classes:
        raise ConfigError("Metric class_accuracy needs a denoiser that is told classes.")


def _guidance(config: RunConfig) -> float | None:
    return config.evaluation.guidance if config.network.num_classes else None


def _quality(
    metrics: Sequence[str], pictures: QualityPictures, config: RunConfig, device: torch.device
) -> dict[str, MetricValue]:
    evaluation = config.evaluation
    values = measure_quality(
        metrics,
        pictures,
        evaluation.extractor,
        device=device,
        cache=cache_folder(),
        num_bootstraps=evaluation.num_bootstraps,
        seed=evaluation.seed,
    )
    name, steps, guidance = evaluation.sampler, evaluation.num_steps, _guidance(config)
    return {
        label: replace(value, sampler=name, num_steps=steps, guidance=guidance)
        for label, value in values.items()
    }


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
        mask_histogram=_histogram(masks),
        latent_std=sums.latents.std().tolist(),
        masked_latent_std=evidence.masked_latent_std,
        collapse=judge(evidence),
        sampler=SamplerUse(
            used.sampler,
            used.num_steps,
            used.num_samples,
            used.seed,
            _guidance(config),
            None if sets is None else "static",
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
    diagnosis = diagnose(system, images, num_levels=2, seed=config.evaluation.seed)
    return CollapseEvidence(
        sums.mask_mean.tolist(),
        sums.masked_latents.std().tolist(),
        sums.diffusion / sums.num_pictures,
        sums.zero_latent_diffusion / sums.num_pictures,
        diagnosis.recovery[0].relative_error,
        diagnosis.least_snr_db,
    )


def _histogram(masks: Tensor) -> MaskHistogram:
    counts = [torch.histc(channel, NUM_BINS, 0.0, 1.0).long().tolist() for channel in masks.T]
    return MaskHistogram(np.linspace(0, 1, NUM_BINS + 1).round(6).tolist(), counts)


def _write(folder: RunFolder, evaluation: Evaluation, shown: dict[str, Tensor]) -> None:
    arrays: Any = {name: x.permute(0, 2, 3, 1).cpu().numpy() for name, x in shown.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_whole(folder.pictures_path, packed.getvalue())
    write_whole(folder.evaluation_path, to_json(evaluation, indent=2).encode())
