"""Synthetic run folders with numbers such as the paper's method gives."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pelap.config.presets import as_baseline, paper_small
from pelap.config.run_config import GateConfig, RunConfig, save_config
from pelap.config.run_folder import RunFolder
from pelap.pages import canvas

CLASSES = ("airplane", "bird", "cat", "dog", "ship")
STEPS_PER_EPOCH = 50


def _metrics(mask: float, diffusion: float, gated: bool) -> list[dict[str, Any]]:
    """Six epochs from the masks' start to `mask`; noise decided by the line's index."""
    lines = []
    for index in range(61):
        epoch = index / 10
        left = np.exp(-1.5 * epoch)
        wobble = 1 + 0.05 * np.sin(7 * index)
        mean = mask + (0.953 - mask) * left if gated else 1.0
        shared = {
            "step": round(epoch * STEPS_PER_EPOCH), "epoch": epoch,
            "total_loss": (diffusion + 0.03 + 0.4 * left) * wobble,
            "reconstruction_loss": (0.02 + 0.2 * left) * wobble, "kl_loss": 2.5 + epoch / 4,
            "diffusion_loss": (diffusion + 0.6 * left) * wobble,
            "sparsity_loss": mean if gated else None,
            "mask_mean": [mean * s for s in (0.9, 1, 1, 1.1)],
        }  # fmt: skip
        more = {"learning_rate": 2e-4, "gradient_norm": 0.8, "images_per_second": 900.0}
        lines.append({"split": "train", **shared, **more})
        if index and index % 10 == 0:
            lines.append({"split": "validation", **shared})
    return lines


def _evaluation(config: RunConfig, mask: float, verdict: str) -> dict[str, Any]:
    gated, collapsed = config.gate.kind != "open", verdict != "healthy"
    masks = [mask * s for s in (0.9, 1.0, 1.0, 1.05)] if gated else [1.0] * 4
    std = [0.08, 0.05, 0.06, 0.07] if not gated and collapsed else [0.9, 1.1, 1.0, 0.8]
    edges = np.linspace(0, 1, 41)
    counts = [
        np.histogram(np.linspace(0.8, 1.0, 500) * value, edges)[0].tolist() for value in masks
    ]
    error = 24.1 if gated else 47.3
    loss = (0.0236 if gated else 0.0284) if collapsed else 0.2143
    return {
        "run": "as written", "preset": config.preset, "split": "test", "num_pictures": 10000,
        "num_parameters": {"autoencoder": 533643, "importance": 292 if gated else 0,
                           "denoiser": 214532, "total": 748467 if gated else 748175},
        "diffusion_loss": loss, "zero_latent_diffusion_loss": 0.0236 if collapsed else 0.1512,
        "gaussian_diffusion_loss": 0.00021 if collapsed else 0.2612,
        "reconstruction_mse_sum": error, "reconstruction_psnr_db": 27.1,
        "masked_reconstruction_mse_sum": (1687.4 if collapsed else 25.3) if gated else error,
        "masked_reconstruction_psnr_db": (8.6 if collapsed else 26.9) if gated else 27.1,
        "mask_mean": masks, "active_channels": 4.0 if masks[0] > 0.5 else 0.0,
        "active_threshold": 0.5,
        "mask_mean_by_class": {name: [min(1.0, v * (0.9 + index / 30)) for v in masks]
                               for index, name in enumerate(CLASSES)},
        "mask_histogram": {"bin_edges": edges.tolist(), "counts": counts},
        "latent_std": std,
        "masked_latent_std": [a * b for a, b in zip(std, masks, strict=True)],
        "collapse": {"verdict": verdict, "reasons": [f"a reason to call it {verdict}"]},
        "sampler": {"name": "ddim", "num_steps": 50, "num_samples": 16, "seed": 0},
        "versions": {"pelap": "0.1.0", "python": "3.11.2", "torch": "2.13.0",
                     "diffusers": "0.36.0"},
        "machine": "x86_64 CPU, 2 threads",
    }  # fmt: skip


def _pictures(masked_visible: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:32, 0:32] / 31
    originals = np.stack(
        [
            255 * np.stack([rows * k / 8, columns, np.hypot(rows - 0.5, columns - k / 8)], axis=-1)
            for k in range(8)
        ]
    ).clip(0, 255)
    blurred = (originals + random.normal(0, 12, originals.shape)).clip(0, 255)
    masked = blurred if masked_visible else random.normal(128, 6, originals.shape).clip(0, 255)
    arrays = {
        "originals": originals,
        "reconstructions": blurred,
        "masked_reconstructions": masked,
        "samples": random.integers(0, 255, (16, 32, 32, 3)),
    }
    return {name: values.astype(np.uint8) for name, values in arrays.items()}


MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes an evaluated run: name, mean mask, λ (None for a baseline) and verdict."""

    def make(
        name: str, mask: float = 0.004, sparsity: float | None = 0.01, verdict: str = "collapsed"
    ) -> RunFolder:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(parents=True)
        config = paper_small()
        if sparsity is None:
            config = as_baseline(config)
        else:
            objective = replace(config.objective, sparsity_weight=sparsity)
            config = replace(config, objective=objective, gate=GateConfig())
        save_config(config, folder.config_path)
        evaluation = _evaluation(config, mask, verdict)
        folder.evaluation_path.write_text(json.dumps(evaluation))
        lines = _metrics(mask, evaluation["diffusion_loss"], sparsity is not None)
        folder.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        pictures: Any = _pictures(masked_visible=verdict == "healthy")
        np.savez_compressed(folder.pictures_path, **pictures)
        return folder

    return make


@pytest.fixture
def small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of few pixels, for tests that read the page's words."""
    monkeypatch.setattr(canvas, "DPI", 48)


@pytest.fixture
def three_runs(make_run: MakeRun) -> list[RunFolder]:
    """A baseline with shrunken latents, and two runs that closed their masks."""
    return [
        make_run("baseline", 1.0, None, "shrunken"),
        make_run("pelap-a", 0.004, 0.01, "collapsed"),
        make_run("no-sparsity", 0.021, 0.0, "collapsed"),
    ]
