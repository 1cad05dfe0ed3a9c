"""The loop: pictures in, a run folder out, on one CPU or many devices through accelerate."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pelap.config import RunConfig, save_config, settings_without_effect, validate
from pelap.data import Pictures, Splits, epoch_order, load_pictures, to_batch
from pelap.errors import ConfigError, RunError
from pelap.losses import Losses
from pelap.run_folder import RunFolder, open_run
from pelap.sampling import to_pipeline
from pelap.seeding import generator
from pelap.system import LatentDiffusion, build_system
from pelap.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    write_folder,
)
from pelap.training.step import (
    StepOutput,
    cosine_learning_rate,
    forward_step,
    make_draws,
    training_step,
)
from pelap.training.tracking import Tracker, keep_metrics_until


@dataclass(frozen=True)
class Trainer:
    """All that a run needs; holds no logic that a function could hold."""

    config: RunConfig
    folder: RunFolder
    splits: Splits
    accelerator: Accelerator
    system: LatentDiffusion
    """The networks themselves."""
    model: nn.Module
    """The same, wrapped for several processes and mixed precision."""
    optimizer: torch.optim.Optimizer
    ema: EMAModel | None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of the seeded order is left for other epochs."""
        return len(self.splits.train) // self.config.data.batch_size

    @property
    def total_steps(self) -> int:
        steps = self.config.run.epochs * self.steps_per_epoch
        return min(steps, self.config.run.max_steps or steps)


def train(config: RunConfig, output: Path) -> RunFolder:
    """Train from scratch into a new run folder.

    Raises:
        ConfigError: If a setting cannot be used.
        DataError: If the pictures cannot be read.
        RunError: If `output` exists already, or the loss stops being finite.
    """
    validate(config)
    if output.exists():
        raise RunError(
            f"{output} exists already: choose another --output, "
            f"or continue that run with `pelap resume {output}`."
        )
    trainer = _prepare(config, RunFolder(output))
    if trainer.accelerator.is_main_process:
        for line in settings_without_effect(config):
            trainer.accelerator.print(f"note: {line}", file=sys.stderr)
        output.mkdir(parents=True)
        save_config(config, trainer.folder.config_path)
    trainer.accelerator.wait_for_everyone()
    _fit(trainer, first_step=0)
    return trainer.folder


def resume(path: Path) -> RunFolder:
    """Continue a run from its last checkpoint, or from the start if it has none.

    On a CPU the metrics are those of the uninterrupted run, bit for bit: every random number is a
    function of the seed and the step.

    Raises:
        RunError: If there is no such run, or its checkpoint cannot be used.
    """
    folder = open_run(path)
    trainer = _prepare(folder.config(), folder)
    checkpoints = list_checkpoints(folder.checkpoints)
    step = 0
    if checkpoints:
        step = load_checkpoint(checkpoints[-1], trainer.system, trainer.optimizer, trainer.ema)
    if trainer.accelerator.is_main_process:
        keep_metrics_until(folder, step)
    trainer.accelerator.wait_for_everyone()
    _fit(trainer, first_step=step)
    return folder


def place(system: LatentDiffusion, config: RunConfig, device: torch.device) -> LatentDiffusion:
    """Move the networks to their device and memory format, and compile them if asked."""
    memory_format = torch.channels_last if config.run.channels_last else torch.preserve_format
    system = system.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    if config.run.compile:
        for network in (system.autoencoder.encoder, system.autoencoder.decoder, system.denoiser):
            network.compile()
    return system


def build_optimizer(system: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """AdamW over all of the system, fused."""
    return torch.optim.AdamW(
        system.parameters(),
        lr=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )


def _prepare(config: RunConfig, folder: RunFolder) -> Trainer:
    accelerator = Accelerator(log_with=config.run.tracker, project_dir=folder.path)
    if config.data.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"--data.batch-size is {config.data.batch_size}: it must be a multiple of the "
            f"{accelerator.num_processes} processes."
        )
    splits = load_pictures(config.data, config.run.seed)
    if len(splits.train) < config.data.batch_size:
        raise ConfigError(
            f"--data.batch-size is {config.data.batch_size}: it must be at most the "
            f"{len(splits.train)} training pictures."
        )
    if len(splits.test) < accelerator.num_processes:
        raise ConfigError(
            f"{len(splits.test)} test pictures are too few for {accelerator.num_processes} "
            "processes: each needs at least one."
        )
    system = place(build_system(config), config, accelerator.device)
    optimizer = build_optimizer(system, config)
    ema = None
    if config.optimizer.ema_decay:
        ema = EMAModel(system.parameters(), decay=config.optimizer.ema_decay)
    model, wrapped = accelerator.prepare(system, optimizer)
    return Trainer(config, folder, splits, accelerator, system, model, wrapped, ema)


def _fit(trainer: Trainer, first_step: int) -> None:
    config, folder = trainer.config, trainer.folder
    with Tracker(folder, trainer.accelerator, config, first_step, trainer.total_steps) as tracker:
        for step in range(first_step, trainer.total_steps):
            output, gradient_norm = _train_step(trainer, step)
            done = step + 1
            ends_epoch = done % trainer.steps_per_epoch == 0 or done == trainer.total_steps
            tracker.advance(done)
            if done % config.run.log_every == 0 or ends_epoch:
                averaged = _average(trainer.accelerator, output)
                _refuse_divergence(averaged, done, config)
                tracker.record(
                    "train",
                    done,
                    done / trainer.steps_per_epoch,
                    averaged,
                    learning_rate=trainer.optimizer.param_groups[0]["lr"],
                    gradient_norm=float(gradient_norm),
                    images_per_second=tracker.images_per_second(done),
                )
            if ends_epoch:
                _end_epoch(trainer, tracker, done)
            every = config.run.checkpoint_every
            if ends_epoch or (every is not None and done % every == 0):
                _save_checkpoint(trainer, done)


def _train_step(trainer: Trainer, step: int) -> tuple[StepOutput, Tensor]:
    config, accelerator = trainer.config, trainer.accelerator
    epoch, index = divmod(step, trainer.steps_per_epoch)
    for group in trainer.optimizer.param_groups:
        group["lr"] = cosine_learning_rate(epoch, config)
    order = epoch_order(len(trainer.splits.train), config.run.seed, epoch)
    size = config.data.batch_size
    share = _share(accelerator, size)
    flips = None
    if config.data.flip:
        flips = torch.rand(size, generator=generator(config.run.seed, "flips", step))[share] < 0.5
    images = _images(trainer, trainer.splits.train, order[index * size :][:size][share], flips)
    draws = make_draws(config, size, "draws", step, accelerator.device).part(share)
    output, norm = training_step(
        trainer.model, trainer.optimizer, images, draws, config, accelerator
    )
    if trainer.ema is not None:
        trainer.ema.step(trainer.system.parameters())
    return output, norm


def _images(
    trainer: Trainer, pictures: Pictures, indices: Tensor, flips: Tensor | None = None
) -> Tensor:
    images = to_batch(pictures.fetch(indices), trainer.accelerator.device, flips)  # (B, 3, H, W)
    if trainer.config.run.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images


def _share(accelerator: Accelerator, size: int) -> slice:
    """This process's part of a batch of `size`."""
    start = accelerator.process_index * size // accelerator.num_processes
    stop = (accelerator.process_index + 1) * size // accelerator.num_processes
    return slice(start, stop)


def _average(accelerator: Accelerator, output: StepOutput) -> StepOutput:
    named = output.losses.named()
    values = torch.cat([torch.stack([v.detach() for v in named.values()]), output.mask_mean])
    return _unpack(_reduced(accelerator, values, "mean"), list(named))


def _reduced(accelerator: Accelerator, values: Tensor, how: str) -> Tensor:
    reduced = accelerator.reduce(values, reduction=how)
    assert isinstance(reduced, Tensor)
    return reduced


def _unpack(values: Tensor, names: list[str]) -> StepOutput:
    losses = {"sparsity_loss": None, **dict(zip(names, values, strict=False))}
    return StepOutput(Losses(**losses), values[len(names) :])


def _refuse_divergence(output: StepOutput, step: int, config: RunConfig) -> None:
    if not torch.isfinite(output.losses.total_loss):
        raise RunError(
            f"The loss is {float(output.losses.total_loss)} at step {step}: lower "
            f"--optimizer.learning-rate (now {config.optimizer.learning_rate})."
        )


def _end_epoch(trainer: Trainer, tracker: Tracker, step: int) -> None:
    if trainer.ema is not None:
        trainer.ema.store(trainer.system.parameters())
        trainer.ema.copy_to(trainer.system.parameters())
    before = [line["total_loss"] for line in trainer.folder.metrics("validation")]
    output = _validate(trainer)
    tracker.record("validation", step, step / trainer.steps_per_epoch, output)
    is_best = float(output.losses.total_loss) <= min(before, default=float("inf"))
    if trainer.accelerator.is_main_process and is_best:
        write_folder(trainer.folder.model, to_pipeline(trainer.system).save_pretrained)
    if trainer.ema is not None:
        trainer.ema.restore(trainer.system.parameters())


@torch.no_grad()
def _validate(trainer: Trainer) -> StepOutput:
    """Mean losses over the test split, with the same draws at every call."""
    config, accelerator = trainer.config, trainer.accelerator
    trainer.model.eval()
    sums, names = torch.zeros(()), []
    for index, indices in enumerate(
        torch.arange(len(trainer.splits.test)).split(config.evaluation.batch_size)
    ):
        share = _share(accelerator, len(indices))
        part = indices[share]
        if len(part) == 0:
            continue
        draws = make_draws(config, len(indices), "validation", index, accelerator.device)
        images = _images(trainer, trainer.splits.test, part)
        output = forward_step(trainer.model, images, draws.part(share), config)
        named = output.losses.named()
        names = list(named)
        sums = sums + len(part) * torch.cat([torch.stack(list(named.values())), output.mask_mean])
    return _unpack(_reduced(accelerator, sums, "sum") / len(trainer.splits.test), names)


def _save_checkpoint(trainer: Trainer, step: int) -> None:
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        save_checkpoint(
            trainer.folder.checkpoints,
            step,
            trainer.config.run.keep_checkpoints,
            trainer.system,
            trainer.optimizer,
            trainer.ema,
            is_last=step == trainer.total_steps,
        )
    trainer.accelerator.wait_for_everyone()
