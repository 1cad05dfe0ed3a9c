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
    from pelap import assets as assets
    from pelap.commands.adapt import adapt as adapt
    from pelap.commands.analyze_model import analyze as analyze
    from pelap.commands.any_model import pictures as pictures
    from pelap.commands.any_model import prompts as prompts
    from pelap.commands.compare_models import compare as compare
    from pelap.commands.diagnose_model import diagnose as diagnose
    from pelap.commands.evaluate import evaluate as evaluate
    from pelap.commands.export import export as export
    from pelap.commands.prune_model import prune as prune
    from pelap.commands.recover_model import recover as recover
    from pelap.commands.report import report as report
    from pelap.commands.resume import resume as resume
    from pelap.commands.sample import sample as sample
    from pelap.commands.sweep_trials import sweep as sweep
    from pelap.commands.train import train as train
    from pelap.config.presets import get_preset as get_preset
    from pelap.config.run_config import RunConfig as RunConfig
    from pelap.measure.collapse_watch import CollapseWatch as CollapseWatch
    from pelap.method.importance import ImportancePredictor as ImportancePredictor
    from pelap.method.latent_gate import LatentGate as LatentGate
    from pelap.method.paper_autoencoder import PaperAutoencoder as PaperAutoencoder
    from pelap.method.paper_denoiser import PaperUNet as PaperUNet
    from pelap.method.pipeline import LatentDiffusionPipeline as LatentDiffusionPipeline
    from pelap.method.pipeline import load_pipeline as load_pipeline
    from pelap.models.opening import open_model as open_model

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
    "adapt": "pelap.commands.adapt",
    "analyze": "pelap.commands.analyze_model",
    "compare": "pelap.commands.compare_models",
    "diagnose": "pelap.commands.diagnose_model",
    "evaluate": "pelap.commands.evaluate",
    "export": "pelap.commands.export",
    "get_preset": "pelap.config.presets",
    "load_pipeline": "pelap.method.pipeline",
    "open_model": "pelap.models.opening",
    "pictures": "pelap.commands.any_model",
    "prompts": "pelap.commands.any_model",
    "prune": "pelap.commands.prune_model",
    "recover": "pelap.commands.recover_model",
    "report": "pelap.commands.report",
    "resume": "pelap.commands.resume",
    "sample": "pelap.commands.sample",
    "sweep": "pelap.commands.sweep_trials",
    "train": "pelap.commands.train",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "assets":
        return importlib.import_module("pelap.assets")
    if name not in _HOMES:
        raise AttributeError(f"module 'pelap' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
