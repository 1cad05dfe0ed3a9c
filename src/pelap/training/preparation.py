"""From a config to networks, pictures and optimiser, with all that can be refused refused."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, LoggerType
from diffusers.training_utils import EMAModel
from torch import nn

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ConfigError
from pelap.data.load import load_pictures
from pelap.data.pictures import Splits
from pelap.families.conditioned import bare
from pelap.method.borrowing import begin_with, take_autoencoder
from pelap.method.step import load_feature_network
from pelap.method.system import LatentDiffusion, build_system
from pelap.training.checkpoint import TrainingState
from pelap.training.stage_objective import RunParts


def prepare(
    config: RunConfig, folder: RunFolder, *, is_new: bool = True
) -> tuple[RunParts, TrainingState]:
    """Everything that a run trains with; nothing is written.

    Args:
        config: Of the run.
        folder: Of the run, where accelerate's trackers write.
        is_new: Whether its first weights are needed, and not those of a checkpoint.

    Raises:
        ConfigError: If a setting cannot be used.
        DataError: If the pictures cannot be read.
        RunError: If another run is named that is missing or damaged.
    """
    # Two stages, and a gate once it is hard, leave some parameters without a gradient.
    all_used = config.run.denoiser_epochs is None and config.gate.budget is None
    check_tracker("--run.tracker", config.run.tracker)
    accelerator = Accelerator(
        log_with=config.run.tracker,
        project_dir=folder.path,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not all_used)],
    )
    splits = load_pictures(config.data, config.run.seed)
    check_batch("--data.batch-size", config.data.batch_size, len(splits.train), accelerator)
    _check_pictures(config, splits, accelerator.num_processes)
    system = build_system(config)
    if config.run.autoencoder is not None:
        take_autoencoder(system, Path(config.run.autoencoder), config.gate.budget)
    if config.run.begin_with is not None and is_new:
        begin_with(
            system,
            Path(config.run.begin_with),
            autoencoder=config.run.autoencoder is None,
            denoiser=config.run.denoiser_epochs != 0,
        )
    system = place(system, config, accelerator.device)
    optimizer = build_optimizer(system, config)
    decay = config.optimizer.ema_decay
    ema = EMAModel(system.parameters(), decay=decay) if decay else None
    model, wrapped = accelerator.prepare(system, optimizer)
    feature_network = None
    if config.run.autoencoder is None:
        feature_network = load_feature_network(config, accelerator.device)
    parts = RunParts(config, splits, accelerator, system, model, feature_network)
    return parts, TrainingState(system, wrapped, ema)


def check_tracker(option: str, name: str | None) -> None:
    """Refuse a tracker that is not installed; accelerate would leave it out with a warning.

    Raises:
        ConfigError: Names those that are.
    """
    known = [str(found.value) for found in LoggerType if found != LoggerType.ALL]
    if name is not None and name not in known:
        raise ConfigError(f"{option} is {name}: known are {', '.join(known)}.")
    here = [str(found) for found in get_available_trackers()]
    if name is not None and name not in here:
        others = f" (installed: {', '.join(here)})" if here else ""
        raise ConfigError(f"{option} is {name}, which is not installed{others}: install it first.")


def check_batch(option: str, size: int, num_pictures: int, accelerator: Accelerator) -> None:
    """Refuse a batch that the processes cannot share or the training pictures cannot fill.

    Raises:
        ConfigError: Names the option.
    """
    if size % accelerator.num_processes:
        raise ConfigError(
            f"{option} is {size}: it must be a multiple of the {accelerator.num_processes} "
            "processes."
        )
    if size > num_pictures:
        raise ConfigError(
            f"{option} is {size}: it must be at most the {num_pictures} training pictures."
        )


def _check_pictures(config: RunConfig, splits: Splits, num_processes: int) -> None:
    if len(splits.test) < num_processes:
        raise ConfigError(
            f"{len(splits.test)} test pictures are too few for {num_processes} processes: each "
            "needs at least one."
        )
    asked, names = config.network.num_classes, splits.train.class_names
    if asked and asked != len(names):
        raise ConfigError(
            f"--network.num-classes is {asked}: the pictures have {len(names)} "
            f"({', '.join(names[:10])})."
        )


def place(system: LatentDiffusion, config: RunConfig, device: torch.device) -> LatentDiffusion:
    """Move the networks to their device and memory format, and compile them if asked."""
    memory_format = torch.channels_last if config.run.channels_last else torch.preserve_format
    system = system.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    if config.run.compile:
        for network in worth_compiling(system, config, device):
            network.compile()
    return system


def worth_compiling(
    system: LatentDiffusion, config: RunConfig, device: torch.device
) -> list[nn.Module]:
    """The networks that torch.compile may translate."""
    autoencoder, denoiser = system.autoencoder, bare(system.denoiser)
    if device.type != "cpu":
        return [autoencoder.encoder, autoencoder.decoder, denoiser]
    # torch 2.13 on a CPU loses the gradient of a compiled decoder's input, at some batch sizes
    # and without a word, so only those whose input needs none.
    alone = config.run.denoiser_epochs is not None
    return [autoencoder.encoder, denoiser] if alone else [autoencoder.encoder]


def build_optimizer(system: LatentDiffusion, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over all of the system, fused; the importance predictor at its own rate."""
    networks = [*system.autoencoder.parameters(), *system.denoiser.parameters()]
    groups = [{"params": networks, "rate_factor": 1.0}]
    if system.importance is not None:
        predictor = list(system.importance.parameters())
        groups.append({"params": predictor, "rate_factor": config.gate.learning_rate_factor})
    return torch.optim.AdamW(
        groups,
        lr=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )
