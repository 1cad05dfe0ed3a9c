"""`pelap evaluate`: evaluation.json and the pictures that the report shows."""

import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.utils.pil_utils import make_image_grid
from PIL import Image
from torch import Tensor

from pelap.config import RunConfig
from pelap.data import load_pictures
from pelap.diagnostics import CollapseEvidence, judge
from pelap.errors import ConfigError
from pelap.evaluation.cost import count_parameters, machine, versions
from pelap.evaluation.measure import Measurements, measure
from pelap.latent import build_gate
from pelap.losses import gaussian_diffusion_loss, psnr_db
from pelap.run_folder import RunFolder, write_whole
from pelap.sampling import SAMPLERS, load_pipeline, sample, to_uint8
from pelap.system import LatentDiffusion

NUM_BINS = 40
"""Bins of the mask histograms over [0, 1]."""


def evaluate_run(folder: RunFolder, config: RunConfig | None = None) -> dict[str, Any]:
    """Evaluate a run's best model on the test split and write evaluation.json.

    Noise and timesteps come from `config.evaluation.seed`, so two runs are comparable and a second
    call gives the same numbers.

    Args:
        folder: The run.
        config: The run's own by default; for pictures that moved or another sampler.

    Returns:
        What was written.

    Raises:
        RunError: If the run has no model yet.
        DataError: If its pictures cannot be read.
    """
    config = config or folder.config()
    device = torch_device()
    system = load_system(folder, device)
    splits = load_pictures(config.data, config.run.seed)
    sums = measure(system, splits.test, config, device)
    result = summarise(sums, splits.test.labels, splits.test.class_names, system, config)
    samples = sample(
        system,
        config,
        num_samples=config.evaluation.num_samples,
        sampler=config.evaluation.sampler,
        num_steps=config.evaluation.num_steps,
        seed=config.evaluation.seed,
    )
    shown = {name: to_uint8(images) for name, images in sums.shown.items()} | {"samples": samples}
    _write(folder, {"run": folder.name, **result}, shown)
    return {"run": folder.name, **result}


def sample_run(
    folder: RunFolder,
    output: Path,
    *,
    sampler: str = "ddim",
    num_steps: int = 50,
    num_samples: int = 64,
    seed: int = 0,
) -> None:
    """Draw pictures with a run's best model: one grid if `output` ends in .png, else a folder.

    Raises:
        ConfigError: If the sampler, a count or `output` cannot be used.
        RunError: If the run has no model yet.
    """
    config = folder.config()
    if sampler not in SAMPLERS:
        raise ConfigError(f"--sampler is {sampler!r}: known are {', '.join(SAMPLERS)}.")
    if not 1 <= num_steps <= config.noise.num_timesteps:
        raise ConfigError(f"--steps is {num_steps}: from 1 to {config.noise.num_timesteps}.")
    if num_samples < 1:
        raise ConfigError(f"--num is {num_samples}: it must be at least 1.")
    if output.exists():
        raise ConfigError(f"--output {output} exists already: choose another.")
    system = load_system(folder, torch_device())
    pictures = sample(
        system, config, num_samples=num_samples, sampler=sampler, num_steps=num_steps, seed=seed
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(x) for x in pictures.permute(0, 2, 3, 1).numpy()]
    if output.suffix.lower() == ".png":
        columns = math.ceil(math.sqrt(num_samples))
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
    pipeline = load_pipeline(folder.model)
    gate = build_gate(folder.config().gate)
    system = LatentDiffusion(
        pipeline.autoencoder, pipeline.denoiser, pipeline.importance, gate, pipeline.scheduler
    )
    return system.to(device).eval()


def summarise(
    sums: Measurements,
    labels: Tensor,
    class_names: tuple[str, ...],
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
        mask_mean, masked_std.tolist(), sums.diffusion / n, sums.zero_latent_diffusion / n
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
        "mask_mean": mask_mean,
        "active_channels": float((masks > config.gate.active_threshold).sum(dim=1).float().mean()),
        "active_threshold": config.gate.active_threshold,
        "mask_mean_by_class": {
            name: masks[labels == index].mean(dim=0).tolist()
            for index, name in enumerate(class_names)
            if bool((labels == index).any())
        },
        "mask_histogram": _histogram(masks),
        "latent_std": sums.latents.std().tolist(),
        "masked_latent_std": masked_std.tolist(),
        "collapse": asdict(judge(evidence)),
        "sampler": {
            "name": evaluation.sampler,
            "num_steps": evaluation.num_steps,
            "num_samples": evaluation.num_samples,
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
