"""pelap finds the latent channels that a latent diffusion model does not need, and proves it.

model = pelap.open_model("folder, hub id, run, or a DiffusionPipeline in memory")
pictures = pelap.pictures("photos/", size=512)
analysis = pelap.analyze(model, pictures)
small = pelap.prune(model, keep=8, rotate="decoder", analysis=analysis)
small.pipeline()  # a stock DiffusionPipeline
pelap.recover(small, pictures, teacher=model, steps=1000).save("small")
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pelap.commands.analyze_model import analyze
    from pelap.commands.any_model import pictures
    from pelap.commands.compare import compare
    from pelap.commands.diagnose_model import diagnose
    from pelap.commands.evaluate import evaluate
    from pelap.commands.export import export
    from pelap.commands.prune_model import prune
    from pelap.commands.recover_model import recover
    from pelap.commands.report import report
    from pelap.commands.resume import resume
    from pelap.commands.sample import sample
    from pelap.commands.sweep_trials import sweep
    from pelap.commands.train import train
    from pelap.config.presets import get_preset
    from pelap.config.run_config import RunConfig
    from pelap.measure.collapse_watch import CollapseWatch
    from pelap.method.importance import ImportancePredictor
    from pelap.method.latent_gate import LatentGate
    from pelap.method.paper_autoencoder import PaperAutoencoder
    from pelap.method.paper_denoiser import PaperUNet
    from pelap.method.pipeline import LatentDiffusionPipeline, load_pipeline
    from pelap.models.opening import open_model

# Imported on first use: the command line answers --help without torch, and diffusers finds the
# classes named in a run's model_index.json here.
_HOMES = {
    "CollapseWatch": "pelap.measure.collapse_watch",
    "ImportancePredictor": "pelap.method.importance",
    "LatentDiffusionPipeline": "pelap.method.pipeline",
    "LatentGate": "pelap.method.latent_gate",
    "PaperAutoencoder": "pelap.method.paper_autoencoder",
    "PaperUNet": "pelap.method.paper_denoiser",
    "RunConfig": "pelap.config.run_config",
    "analyze": "pelap.commands.analyze_model",
    "compare": "pelap.commands.compare",
    "diagnose": "pelap.commands.diagnose_model",
    "evaluate": "pelap.commands.evaluate",
    "export": "pelap.commands.export",
    "get_preset": "pelap.config.presets",
    "load_pipeline": "pelap.method.pipeline",
    "open_model": "pelap.models.opening",
    "pictures": "pelap.commands.any_model",
    "prune": "pelap.commands.prune_model",
    "recover": "pelap.commands.recover_model",
    "report": "pelap.commands.report",
    "resume": "pelap.commands.resume",
    "sample": "pelap.commands.sample",
    "sweep": "pelap.commands.sweep_trials",
    "train": "pelap.commands.train",
}

__all__ = [
    "CollapseWatch",
    "ImportancePredictor",
    "LatentDiffusionPipeline",
    "LatentGate",
    "PaperAutoencoder",
    "PaperUNet",
    "RunConfig",
    "analyze",
    "compare",
    "diagnose",
    "evaluate",
    "export",
    "get_preset",
    "load_pipeline",
    "open_model",
    "pictures",
    "prune",
    "recover",
    "report",
    "resume",
    "sample",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pelap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
