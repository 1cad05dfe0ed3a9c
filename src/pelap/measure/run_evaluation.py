"""`pelap evaluate`: evaluation.json and the pictures that the report shows."""

import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.utils.pil_utils import make_image_grid
from PIL import Image
from torch import Tensor

from pelap.config.run_config import EvaluationConfig, RunConfig, SamplerName
from pelap.config.run_folder import RunFolder, write_whole
from pelap.core.errors import ConfigError
from pelap.data.load import CIFAR10_CLASSES, load_pictures
from pelap.data.pictures import Pictures, to_batch
from pelap.measure.channel_sets import best_static_set, count_sets, draw_sets, to_mask
from pelap.measure.collapse import CollapseEvidence, judge
from pelap.measure.diagnosis_record import Diagnosis
from pelap.measure.machine import machine, versions
from pelap.measure.noise_levels import diagnose
from pelap.measure.quality import QualityPictures, check_metrics, measure_quality
from pelap.measure.run_cost import count_parameters
from pelap.measure.test_pass import Measurements, measure
from pelap.method.borrowing import meet_budget
from pelap.method.losses import gaussian_diffusion_loss, psnr_db
from pelap.method.pipeline import load_pipeline, read_class_names, to_system
from pelap.method.sampling import SAMPLERS, sample, to_uint8
from pelap.method.system import LatentDiffusion
from pelap.models.precision import InPrecision, Precision, check_precision

ChannelSetChoice = Literal["static", "drawn"]
NUM_SAMPLES_KEPT = 64
"""Samples that are kept for the report, however many are measured."""
NUM_DIAGNOSED = 500
"""Pictures on which the recovery of the clean latent is measured."""
NUM_BINS = 40
"""Bins of the mask histograms over [0, 1]."""


def evaluate_run(
    folder: RunFolder, config: RunConfig | None = None, metrics: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate a run's best model on the test split and write evaluation.json.

    Noise and timesteps come from `config.evaluation.seed`, so two runs are comparable and a second
    call gives the same numbers.

    Args:
        folder: The run.
        config: The run's own by default; for pictures that moved, another sampler, or another
            budget of a nested gate.
        metrics: Names of quality metrics to add, see `pelap.measure.quality`.

    Returns:
        What was written.

    Raises:
        ConfigError: If a metric is unknown, or the gate cannot meet the config's budget.
        RunError: If the run has no model yet.
        DataError: If its pictures cannot be read.
    """
    with folder.held():
        return _evaluate(folder, config or folder.config(), metrics)


def _evaluate(folder: RunFolder, config: RunConfig, metrics: Sequence[str]) -> dict[str, Any]:
    device = torch_device()
    check_metrics(metrics, config.evaluation.extractor, device)
    _check_judged(metrics, config)
    system = load_system(folder, device)
    meet_budget(system, config.gate.budget, folder.config().gate.budget)
    splits = load_pictures(config.data, config.run.seed)
    sums = measure(system, splits.test, config, device, keep_reconstructions=bool(metrics))
    result: dict[str, Any] = {"run": folder.name}
    recovery = _diagnose(system, splits.test, config, device)
    result |= summarise(sums, recovery, splits.test, system, config)
    masks, channel_sets = torch.cat(sums.masks), None
    if is_adaptive(system):
        found = count_sets(masks)
        channel_sets = found.as_dict(splits.test.labels, splits.test.class_names)
        channel_sets["static"] = best_static_set(system, splits.test, found, config, device)
        result["channel_sets"] = channel_sets
        result["sampler"]["channel_sets"] = "static"
    labels = sample_labels(config)
    samples = draw_samples(system, config, channel_sets, labels=labels)
    if metrics:
        originals = splits.test.fetch(torch.arange(len(splits.test)))
        pictures = QualityPictures(originals, torch.cat(sums.reconstructions), samples)
        if splits.test.class_names == CIFAR10_CLASSES:
            pictures = replace(pictures, labels=splits.test.labels, sample_labels=labels)
        result["quality"] = _quality(metrics, pictures, config, device)
    shown = {name: to_uint8(images) for name, images in sums.shown.items()}
    _write(folder, result, shown | {"samples": samples[:NUM_SAMPLES_KEPT]})
    return result


def _check_judged(metrics: Sequence[str], config: RunConfig) -> None:
    judged = [name for name in metrics if name in ("class_accuracy", "reconstruction_accuracy")]
    if judged and (config.data.source, config.data.size) != ("cifar10", 32):
        raise ConfigError(f"Metric {judged[0]} knows CIFAR-10 at 32 pixels only.")
    if "class_accuracy" in judged and not config.network.num_classes:
        raise ConfigError("Metric class_accuracy needs a denoiser that is told classes.")


def sample_labels(config: RunConfig) -> Tensor | None:
    """Class of each of the evaluation's samples, (N,), in turn; None where nobody is told."""
    num_classes = config.network.num_classes
    return torch.arange(config.evaluation.num_samples) % num_classes if num_classes else None


def _diagnose(
    system: LatentDiffusion, pictures: Pictures, config: RunConfig, device: torch.device
) -> Diagnosis:
    """How well the clean latent is recovered, on the first `NUM_DIAGNOSED` pictures."""
    indices = torch.arange(min(NUM_DIAGNOSED, len(pictures)))
    images = to_batch(pictures.fetch(indices), device)
    return diagnose(system, images, num_levels=2, seed=config.evaluation.seed)


def is_adaptive(system: LatentDiffusion) -> bool:
    """Whether each input has its own set of channels: a gate that is adaptive and hard."""
    return system.gate is not None and system.gate.is_hard and system.gate.adaptive


def draw_samples(
    system: LatentDiffusion,
    config: RunConfig,
    channel_sets: dict[str, Any] | None = None,
    *,
    how: ChannelSetChoice = "static",
    labels: Tensor | None = None,
) -> Tensor:
    """Pictures from noise as the config's evaluation says, uint8 (N, 3, H, W).

    Args:
        system: The networks.
        config: Its evaluation gives number, sampler, steps and seed.
        channel_sets: What an adaptive gate was found to do; needed for one.
        how: For an adaptive gate, its best static set, or sets drawn from the measured frequencies.
        labels: Class of each picture, (N,).
    """
    evaluation, masks = config.evaluation, None
    if channel_sets is not None:
        channels, num = config.network.latent_channels, evaluation.num_samples
        if how == "static":
            masks = to_mask(channel_sets["static"]["channels"], channels)
        else:
            masks = draw_sets(channel_sets, num, channels, evaluation.seed)
    return sample(
        system,
        config,
        num_samples=evaluation.num_samples,
        sampler=evaluation.sampler,
        num_steps=evaluation.num_steps,
        seed=evaluation.seed,
        masks=masks,
        labels=labels,
        guidance=evaluation.guidance,
    )


def choose_classes(asked: str, num_classes: int, names: Sequence[str]) -> list[int]:
    """The classes of "all", or of names or numbers with commas between.

    Raises:
        ConfigError: If the model is told no classes, or there is no such class.
    """
    if not num_classes:
        raise ConfigError("--classes has nobody to tell: this model's denoiser knows no classes.")
    if asked == "all":
        return list(range(num_classes))
    known = {str(index): index for index in range(num_classes)}
    known |= {name: index for index, name in enumerate(names)}
    chosen = []
    for word in asked.split(","):
        if word.strip() not in known:
            raise ConfigError(
                f"--classes names {word.strip()!r}: there are all, 0 to {num_classes - 1}"
                + (f", {', '.join(names)}." if names else ".")
            )
        chosen.append(known[word.strip()])
    return chosen


def _quality(
    metrics: Sequence[str], pictures: QualityPictures, config: RunConfig, device: torch.device
) -> dict[str, Any]:
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
    sampler: dict[str, Any] = {"sampler": evaluation.sampler, "num_steps": evaluation.num_steps}
    if config.network.num_classes:
        sampler["guidance"] = evaluation.guidance
    return {name: value.as_dict() | sampler for name, value in values.items()}


def cache_folder() -> Path:
    """Where reference features are kept: $PELAP_CACHE, or pelap in the user's cache folder."""
    own = os.environ.get("PELAP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "pelap"


def sample_run(
    folder: RunFolder,
    output: Path,
    *,
    sampler: str = "ddim",
    num_steps: int = 50,
    num_samples: int | None = None,
    classes: str | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    channel_sets: ChannelSetChoice = "static",
    precision: Precision = "fp32",
    compiled: bool = False,
) -> None:
    """Draw pictures with a run's best model: one grid if `output` ends in .png, else a folder.

    Args:
        folder: The run.
        output: A .png file or a new folder.
        sampler: One of `pelap.method.sampling.SAMPLERS`.
        num_steps: Steps of the sampler.
        num_samples: Pictures, 64 by default; with `classes` of each of them, 8 by default.
        classes: "all", or names or numbers with commas between, for a model that is told classes.
        guidance: Towards the class, see `pelap.method.sampling.denoise`.
        seed: Of the noise.
        channel_sets: For an adaptive gate: its best static set, or sets drawn from the frequencies
            measured by `pelap evaluate`.
        precision: Of the denoiser and the decoder.
        compiled: Whether torch.compile translates both first.

    Raises:
        ConfigError: If the sampler, the precision, a count or `output` cannot be used.
        RunError: If the run has no model yet, or an adaptive gate was not evaluated.
    """
    config = folder.config()
    if sampler not in SAMPLERS:
        raise ConfigError(f"--sampler is {sampler!r}: known are {', '.join(SAMPLERS)}.")
    if not 1 <= num_steps <= config.noise.num_timesteps:
        raise ConfigError(f"--steps is {num_steps}: from 1 to {config.noise.num_timesteps}.")
    if num_samples is not None and num_samples < 1:
        raise ConfigError(f"--num is {num_samples}: it must be at least 1.")
    if guidance < 1:
        raise ConfigError(f"--guidance is {guidance}: it must be at least 1.")
    if output.exists():
        raise ConfigError(f"--output {output} exists already: choose another.")
    device = torch_device()
    check_precision(precision, device)
    system = load_system(folder, device)
    of_each = num_samples or (64 if classes is None else 8)
    labels = None
    if classes is not None:
        chosen = choose_classes(classes, config.network.num_classes, read_class_names(folder.model))
        labels = torch.tensor(chosen).repeat_interleave(of_each)
    elif guidance != 1:
        raise ConfigError(f"--guidance is {guidance}: it needs --classes.")
    options: Any = {"compiled": compiled, "device": device}
    system.denoiser = InPrecision(system.denoiser, precision, **options)  # type: ignore[assignment]
    system.autoencoder = InPrecision(system.autoencoder, precision, **options)
    measured = folder.evaluation()["channel_sets"] if is_adaptive(system) else None
    num_samples = of_each if labels is None else len(labels)
    evaluation = EvaluationConfig(
        num_samples=num_samples,
        sampler=cast(SamplerName, sampler),
        num_steps=num_steps,
        guidance=guidance,
        seed=seed,
    )
    config = replace(config, evaluation=evaluation)
    pictures = draw_samples(system, config, measured, how=channel_sets, labels=labels)
    output.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(x) for x in pictures.permute(0, 2, 3, 1).numpy()]
    if output.suffix.lower() == ".png":
        columns = math.ceil(math.sqrt(num_samples)) if labels is None else of_each
        make_image_grid(
            _padded(images, columns), rows=-(-num_samples // columns), cols=columns
        ).save(output)
        return
    output.mkdir()
    for index, image in enumerate(images):
        image.save(output / f"{index:05d}.png")


def torch_device() -> torch.device:
    """The device that accelerate would train on."""
    return Accelerator().device


def _padded(images: list[Image.Image], columns: int) -> list[Image.Image]:
    missing = -len(images) % columns
    return images + [Image.new("RGB", images[0].size, "white")] * missing


def load_system(folder: RunFolder, device: torch.device) -> LatentDiffusion:
    """The run's best model, ready to evaluate.

    Raises:
        RunError: If the run has not saved one yet.
    """
    return to_system(load_pipeline(folder.model), folder.config()).to(device).eval()


def summarise(
    sums: Measurements,
    diagnosis: Diagnosis,
    pictures: Pictures,
    system: LatentDiffusion,
    config: RunConfig,
) -> dict[str, Any]:
    """Every figure of evaluation.json; units as their names say, images in [-1, 1]."""
    n = sums.num_pictures
    values_per_picture = 3 * config.data.size**2
    masks = torch.cat(sums.masks)  # (N, C)
    mask_mean = masks.mean(dim=0).tolist()
    masked_std = sums.masked_latents.std()
    evidence = CollapseEvidence(
        mask_mean,
        masked_std.tolist(),
        sums.diffusion / n,
        sums.zero_latent_diffusion / n,
        diagnosis.recovery[0].relative_error,
        diagnosis.least_snr_db,
    )
    alphas = system.scheduler.alphas_cumprod.double()
    evaluation = config.evaluation
    return {
        "preset": config.preset,
        "split": "test",
        "num_pictures": n,
        "num_parameters": count_parameters(system),
        "diffusion_loss": evidence.diffusion_loss,
        "zero_latent_diffusion_loss": evidence.zero_latent_diffusion_loss,
        "gaussian_diffusion_loss": float(gaussian_diffusion_loss(masked_std, alphas)),
        "reconstruction_mse_sum": sums.squared_error / n,
        "reconstruction_psnr_db": psnr_db(sums.squared_error / n / values_per_picture),
        "masked_reconstruction_mse_sum": sums.masked_squared_error / n,
        "masked_reconstruction_psnr_db": psnr_db(
            sums.masked_squared_error / n / values_per_picture
        ),
        "relative_error": evidence.relative_error,
        "mask_mean": mask_mean,
        "active_channels": float((masks > config.gate.active_threshold).sum(dim=1).float().mean()),
        "active_threshold": config.gate.active_threshold,
        "mask_mean_by_class": {
            name: masks[pictures.labels == index].mean(dim=0).tolist()
            for index, name in enumerate(pictures.class_names)
            if bool((pictures.labels == index).any())
        },
        "mask_histogram": _histogram(masks),
        "latent_std": sums.latents.std().tolist(),
        "masked_latent_std": masked_std.tolist(),
        "collapse": asdict(judge(evidence)),
        "sampler": {
            "name": evaluation.sampler,
            "num_steps": evaluation.num_steps,
            "num_samples": evaluation.num_samples,
            "guidance": evaluation.guidance if config.network.num_classes else None,
            "seed": evaluation.seed,
        },
        "versions": versions(),
        "machine": machine(),
    }


def _histogram(masks: Tensor) -> dict[str, Any]:
    counts = [torch.histc(channel, NUM_BINS, 0.0, 1.0).long().tolist() for channel in masks.T]
    return {"bin_edges": np.linspace(0, 1, NUM_BINS + 1).round(6).tolist(), "counts": counts}


def _write(folder: RunFolder, result: dict[str, Any], shown: dict[str, Tensor]) -> None:
    arrays: dict[str, Any] = {n: x.permute(0, 2, 3, 1).cpu().numpy() for n, x in shown.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_whole(folder.pictures_path, packed.getvalue())
    write_whole(folder.evaluation_path, (json.dumps(result, indent=2) + "\n").encode())
