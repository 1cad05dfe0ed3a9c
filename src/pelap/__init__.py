"""pelap finds the latent channels that a latent diffusion model does not need, and proves it."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use: the command line answers --help without torch, and diffusers finds the
# classes named in a run's model_index.json here.
_HOMES = {
    "CollapseWatch": "pelap.measure.collapse_watch",
    "ImportancePredictor": "pelap.method.importance",
    "LatentDiffusion": "pelap.method.system",
    "LatentDiffusionPipeline": "pelap.method.pipeline",
    "LatentGate": "pelap.method.latent_gate",
    "PaperAutoencoder": "pelap.method.paper_autoencoder",
    "PaperUNet": "pelap.method.paper_denoiser",
    "RunConfig": "pelap.config.run_config",
    "build_system": "pelap.method.system",
    "diagnose_model": "pelap.commands.diagnose",
    "evaluate_run": "pelap.measure.run_evaluation",
    "get_preset": "pelap.config.presets",
    "load_diagnosable": "pelap.commands.diagnose",
    "load_pipeline": "pelap.method.pipeline",
    "resume": "pelap.training.trainer",
    "train": "pelap.training.trainer",
    "write_report": "pelap.report.run_page",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pelap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
