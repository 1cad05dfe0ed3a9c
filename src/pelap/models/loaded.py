"""A model as it was found: its networks, and where everything else of it lies."""

import copy
import inspect
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from pelap.config.run_config import NoiseConfig, RunConfig
from pelap.core.errors import ModelError, foreign_errors, in_one_line
from pelap.core.json_values import JsonObject
from pelap.families.conditioned import Condition, ConditionedDenoiser
from pelap.families.registry import (
    LATENT_SIDE,
    check_denoiser,
    denoiser_families,
    denoiser_family,
    latent_side,
)
from pelap.method.forward_process import build_scheduler, flow_process
from pelap.method.normalizer import LatentNormalizer, read_statistics
from pelap.method.pipeline import LatentDiffusionPipeline, load_pipeline
from pelap.method.system import LATENT_FACTOR, LatentDiffusion
from pelap.models.foreign_autoencoder import ForeignAutoencoder
from pelap.models.kept_units import KeptUnits
from pelap.models.quiet import quiet_loading

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class LoadedModel:
    """An autoencoder, with the denoiser and the pipeline around it where there are such."""

    name: str
    autoencoder: nn.Module
    denoiser: nn.Module | None = None
    folder: Path | None = None
    """Its diffusers folder; None if it comes from a factory or from memory."""
    parts: JsonObject = field(default_factory=dict)
    """What model_index.json says; empty for an autoencoder on its own."""
    autoencoder_name: str = ""
    """The part's name in the pipeline; empty for an autoencoder on its own."""
    denoiser_name: str = ""
    scheduler_config: JsonObject = field(default_factory=dict)
    variants: dict[str, str | None] = field(default_factory=dict)
    """Of each part's weight files, e.g. fp16, by the part's name."""
    config: RunConfig | None = None
    """Of the run that it is the model of."""
    memory: DiffusionPipeline | None = None
    """The pipeline in memory that it was taken from; its other parts are there."""
    card: str | None = None
    """Model card in place of the folder's, of a model that was changed in memory."""
    kept_units: KeptUnits | None = None
    """What it kept of the denoiser that it was pruned from."""
    condition: Condition | None = None
    """What its denoiser is told, see `without_condition`; None where it is not run conditioned."""

    @property
    def num_channels(self) -> int:
        """Latent channels, C."""
        return int(ForeignAutoencoder(self.autoencoder).config["latent_channels"])

    @property
    def latent_side(self) -> int:
        """Height and width of the latents that it was made for."""
        if self.config is not None:
            return self.config.data.size // LATENT_FACTOR
        if isinstance(self.parts.get("sample_size"), int):
            return self.parts["sample_size"]
        return LATENT_SIDE if self.denoiser is None else latent_side(self.denoiser)

    @property
    def normalizer(self) -> LatentNormalizer | None:
        """From the autoencoder's latents to those that the denoiser sees."""
        if not hasattr(self.autoencoder, "config"):
            return None
        return read_statistics(ForeignAutoencoder(self.autoencoder))  # type: ignore[arg-type]

    @property
    def history(self) -> list[JsonObject]:
        """What pelap did before, oldest first. Each step notes all of them in the config of the
        network that it changed, so the longer of two lists is the whole."""
        networks = (self.autoencoder, self.denoiser)
        configs: list[Any] = [getattr(network, "config", {}) for network in networks]
        return list(max((config.get("_pelap", []) for config in configs), key=len))

    def system(self) -> LatentDiffusion:
        """The model as the system that is measured; its denoiser is None where it cannot be run
        on latents alone (text or classes without a `condition`, an unknown forward process)."""
        autoencoder = ForeignAutoencoder(self.autoencoder)
        condition, scheduler = self.condition, read_forward_process(self.scheduler_config)
        if condition is not None and condition.is_flow:
            scheduler = flow_process()
        denoiser: Any = None
        if self.denoiser is not None and scheduler is not None:
            if condition is not None:
                denoiser = ConditionedDenoiser(self.denoiser, condition)
            elif runs_on_latents(self.denoiser):
                denoiser = self.denoiser
        forward_process = scheduler or build_scheduler(NoiseConfig())
        return LatentDiffusion(
            autoencoder, denoiser, None, None, forward_process, self.normalizer
        ).eval()

    def measured_system(self, device: torch.device | str = "cpu") -> LatentDiffusion:
        """As `system`, in float32 on a device; the model itself keeps its precision and place."""
        system = self.system()
        weights = [(p.dtype, p.device.type) for p in system.parameters()]
        if any(found != (torch.float32, torch.device(device).type) for found in weights):
            system = copy.deepcopy(system).float().to(device)
        return system

    def pipeline(self) -> DiffusionPipeline:
        """The model as its own stock pipeline, in memory; nothing is written.

        Raises:
            ModelError: If it is an autoencoder on its own, or its other parts cannot be loaded.
        """
        if not self.parts:
            raise ModelError(f"{self.name} is no pipeline, but an autoencoder on its own.")
        own: JsonObject = {self.autoencoder_name: self.autoencoder}
        if self.denoiser is not None:
            own[self.denoiser_name] = self.denoiser
        if self.memory is not None:
            kind = type(self.memory)
            config: Any = self.memory.config
            known = {**config, **self.memory.components, **own}
            taken = inspect.signature(kind.__init__).parameters
            return kind(**{name: value for name, value in known.items() if name in taken})
        if self.parts["_class_name"] == "LDMPipeline" and self.config is not None:
            scheduler = DDIMScheduler.from_config(dict(self.scheduler_config))
            return diffusers.LDMPipeline(scheduler=scheduler, **own)  # type: ignore[arg-type]
        if self.folder is None:
            raise ModelError(f"{self.name} has no folder to take its other parts from.")
        if self.pipeline_class() is LatentDiffusionPipeline:
            whole = load_pipeline(self.folder)
            parts = {name: part for name, part in whole.components.items() if name in self.parts}
            return LatentDiffusionPipeline(**(parts | own), sample_size=self.latent_side)
        others = [variant for name, variant in self.variants.items() if variant and name not in own]
        try:
            with quiet_loading():
                return DiffusionPipeline.from_pretrained(
                    self.folder,
                    use_safetensors=True,
                    local_files_only=True,
                    variant=next(iter(others), None),
                    **own,
                )
        except Exception as error:  # of whatever the parts' classes make of their configs
            if find_spec("transformers") is None and self._has_text():
                raise ModelError(
                    f"{self.name} has text encoders, which need the extra text: "
                    'pip install "pelap[text]".'
                ) from error
            raise ModelError(f"{self.name} cannot be loaded whole: {in_one_line(error)}") from error

    def pipeline_class(self) -> type[DiffusionPipeline]:
        """Class of its pipeline: one of diffusers', or that of a run.

        Raises:
            ModelError: If it is neither.
        """
        if self.memory is not None:
            return type(self.memory)
        name = str(self.parts["_class_name"])
        if name == LatentDiffusionPipeline.__name__:
            return LatentDiffusionPipeline
        kind = getattr(diffusers, name, None)
        if kind is None:
            raise ModelError(f"{self.name} is a {name}, which this diffusers does not have.")
        return kind

    def _has_text(self) -> bool:
        parts = (part for part in self.parts.values() if isinstance(part, list))
        return any(part[:1] == ["transformers"] for part in parts)

    def check(self) -> None:
        """Refuse what cannot be pruned.

        Raises:
            ModelError: If a class is unknown, or autoencoder and denoiser do not fit.
        """
        if self.denoiser is not None:
            check_denoiser(self.denoiser, self.num_channels)


def runs_on_latents(denoiser: nn.Module | None) -> bool:
    """Whether a denoiser needs noisy latents and a timestep, and nothing else."""
    if type(denoiser).__name__ not in denoiser_families():
        return False
    found: Any = denoiser
    return denoiser_family(found).runs_on_latents(found.config)


def is_flow(config: JsonObject) -> bool:
    """Whether a scheduler is of a flow: σ in place of betas."""
    kind = str(config.get("_class_name"))
    return bool(kind.startswith("FlowMatch") or config.get("use_flow_sigmas"))


def read_forward_process(config: JsonObject) -> DDPMScheduler | None:
    """The forward process that a pipeline's scheduler undoes; None if it has no betas, or tells
    the denoiser other timesteps than theirs.

    Raises:
        ModelError: If its config makes no sense.
    """
    if "beta_start" not in config or is_flow(config):
        return None
    if config.get("timestep_type") == "continuous":
        return None
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        return None
    with foreign_errors(lambda why: ModelError(f"The scheduler cannot be read: {why}.")):
        scheduler = DDPMScheduler.from_config({**config, "clip_sample": False})
    assert isinstance(scheduler, DDPMScheduler)
    betas, num = scheduler.betas, scheduler.config["num_train_timesteps"]
    if betas.shape != (num,) or not bool(((betas >= 0) & (betas <= 1)).all()):
        raise ModelError("The scheduler's betas are not a number between 0 and 1 a timestep.")
    return scheduler
