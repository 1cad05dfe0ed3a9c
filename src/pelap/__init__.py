"""pelap finds the latent channels that a latent diffusion model does not need, and proves it."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use: the command line answers --help without torch, and diffusers finds the
# classes named in a run's model_index.json here.
_HOMES = {
    "ImportancePredictor": "pelap.latent",
    "LatentDiffusion": "pelap.system",
    "LatentDiffusionPipeline": "pelap.sampling",
    "PaperAutoencoder": "pelap.networks",
    "PaperUNet": "pelap.networks",
    "RunConfig": "pelap.config",
    "build_system": "pelap.system",
    "diagnose_model": "pelap.diagnose",
    "evaluate_run": "pelap.evaluation",
    "get_preset": "pelap.presets",
    "load_diagnosable": "pelap.diagnose",
    "load_pipeline": "pelap.sampling",
    "resume": "pelap.training",
    "train": "pelap.training",
    "write_report": "pelap.report",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pelap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
