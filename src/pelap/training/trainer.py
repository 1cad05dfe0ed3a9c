"""The loop: pictures in, a run folder out, on one CPU or many devices through accelerate."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pelap.config.run_config import RunConfig, settings_without_effect, validate
from pelap.config.run_folder import (
    RunFolder,
    already_there,
    copy_run,
    create_run,
    open_run,
    write_config,
    write_folder,
)
from pelap.core.errors import ConfigError, RunError
from pelap.core.seeding import generator
from pelap.data.load import load_pictures
from pelap.data.pictures import Splits, epoch_order
from pelap.families.conditioned import bare
from pelap.measure.collapse import CollapseEvidence, judge
from pelap.method.cifar_resnet import CifarResNet
from pelap.method.gates import follow_budget
from pelap.method.sampling import begin_with, take_autoencoder, to_pipeline
from pelap.method.step import StepOutput, load_feature_network, make_draws, training_step
from pelap.method.system import LatentDiffusion, build_system
from pelap.training.changes import check_changes
from pelap.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from pelap.training.grids import draw_classes, judge_classes
from pelap.training.stages import StagePlan, plan_stages
from pelap.training.tracking import Tracker, keep_metrics_until
from pelap.training.training_batches import Batches, batches_of
from pelap.training.validation import average, share_of, validate_model


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
    feature_network: CifarResNet | None

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of the seeded order is left for other epochs."""
        return len(self.splits.train) // self.config.data.batch_size

    @property
    def plan(self) -> tuple[StagePlan, ...]:
        return plan_stages(self.config, self.steps_per_epoch)

    @property
    def total_steps(self) -> int:
        return self.plan[-1].last_step


def train(config: RunConfig, output: Path) -> RunFolder:
    """Train from scratch into a new run folder.

    Raises:
        ConfigError: If a setting cannot be used.
        DataError: If the pictures cannot be read.
        RunError: If `output` exists already, or the loss stops being finite.
    """
    validate(config)
    if output.exists():
        raise already_there(output)
    trainer = _prepare(config, RunFolder(output))
    if trainer.accelerator.is_main_process:
        for line in settings_without_effect(config):
            trainer.accelerator.print(f"note: {line}", file=sys.stderr)
        create_run(output, config)
    trainer.accelerator.wait_for_everyone()
    _fit(trainer, first_step=0)
    return trainer.folder


def resume(path: Path, config: RunConfig | None = None, *, output: Path | None = None) -> RunFolder:
    """Continue a run from its last checkpoint, or from the start if it has none.

    On a CPU the metrics are those of the uninterrupted run, bit for bit: every random number is a
    function of the seed and the step.

    Args:
        path: Of the run.
        config: Its own by default; its length may change where its schedule is a trapezoid, and how
            often it says, keeps and draws something.
        output: Go on in a copy, and leave the run as it is.

    Raises:
        ConfigError: If a setting cannot change.
        RunError: If there is no such run, its checkpoint cannot be used, it was stopped because its
            model had collapsed, or another process works on it.
    """
    folder = open_run(path)
    own = folder.config()
    config = config or own
    checkpoints = list_checkpoints(folder.checkpoints)
    check_changes(config, own, int(checkpoints[-1].name[5:]) if checkpoints else 0)
    if output is not None and output.exists():
        raise already_there(output)
    to = folder if output is None else RunFolder(output)
    trainer = _prepare(config, to, is_new=not checkpoints)
    step = int(checkpoints[-1].name[5:]) if checkpoints else 0
    if trainer.total_steps < step:
        raise ConfigError(
            f"{path} has taken {step} steps: that length ends after {trainer.total_steps}."
        )
    if output is not None and trainer.accelerator.is_main_process:
        copy_run(folder, output, checkpoints[-1:], config)
    trainer.accelerator.wait_for_everyone()
    if checkpoints:
        step = load_checkpoint(checkpoints[-1], trainer.system, trainer.optimizer, trainer.ema)
    _fit(trainer, first_step=step)
    return to


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


def _prepare(config: RunConfig, folder: RunFolder, *, is_new: bool = True) -> Trainer:
    # Two stages, and a gate once it is hard, leave some parameters without a gradient.
    all_used = config.run.denoiser_epochs is None and config.gate.budget is None
    accelerator = Accelerator(
        log_with=config.run.tracker,
        project_dir=folder.path,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=not all_used)],
    )
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
    _check_classes(config, splits)
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
    trains_autoencoder = config.run.autoencoder is None
    system = place(system, config, accelerator.device)
    optimizer = build_optimizer(system, config)
    ema = None
    if config.optimizer.ema_decay:
        ema = EMAModel(system.parameters(), decay=config.optimizer.ema_decay)
    model, wrapped = accelerator.prepare(system, optimizer)
    return Trainer(
        config, folder, splits, accelerator, system, model, wrapped, ema,
        load_feature_network(config, accelerator.device) if trains_autoencoder else None,
    )  # fmt: skip


def _check_classes(config: RunConfig, splits: Splits) -> None:
    asked, there = config.network.num_classes, len(splits.train.class_names)
    if asked and asked != there:
        raise ConfigError(
            f"--network.num-classes is {asked}: the pictures have {there} "
            f"({', '.join(splits.train.class_names[:10])})."
        )


def _fit(trainer: Trainer, first_step: int) -> None:
    """Train from `first_step` to the end; the main process holds the run meanwhile."""
    is_main = trainer.accelerator.is_main_process
    with trainer.folder.held() if is_main else nullcontext():
        if is_main:
            keep_metrics_until(trainer.folder, first_step)
            if trainer.folder.config() != trainer.config:
                write_config(trainer.folder, trainer.config)
        trainer.accelerator.wait_for_everyone()
        if trainer.config.run.on_collapse == "stop":
            _refuse_collapsed(trainer.folder)
        with Tracker(
            trainer.folder, trainer.accelerator, trainer.config, first_step, trainer.total_steps
        ) as tracker:
            for plan in trainer.plan:
                if first_step < plan.last_step:
                    _run_stage(trainer, tracker, plan, max(first_step, plan.first_step))
        if is_main and trainer.config.run.latent_cache is None:
            shutil.rmtree(trainer.folder.latents, ignore_errors=True)


def _run_stage(trainer: Trainer, tracker: Tracker, plan: StagePlan, first_step: int) -> None:
    config, per_epoch = trainer.config, trainer.steps_per_epoch
    batches = batches_of(
        plan.stage, config, trainer.splits, trainer.system, trainer.folder, trainer.accelerator
    )
    tracker.restart_clock(first_step)  # what caching latents took is no training
    for step in range(first_step, plan.last_step):
        output, gradient_norm = _train_step(trainer, plan, step, batches)
        done = step + 1
        ends_stage = done == plan.last_step
        ends_epoch = (done - plan.first_step) % per_epoch == 0 or ends_stage
        tracker.advance(done)
        if done % config.run.log_every == 0 or ends_epoch:
            averaged = average(trainer.accelerator, output)
            _refuse_divergence(averaged, done, config)
            tracker.record(
                "train",
                done,
                done / per_epoch,
                averaged,
                plan.stage,
                learning_rate=trainer.optimizer.param_groups[0]["lr"],
                gradient_norm=float(gradient_norm),
                images_per_second=tracker.images_per_second(done),
            )
        if ends_stage and plan.stage != "denoiser":
            _follow_budget(trainer, plan, done)  # also where the steps were too few to get there
        if ends_epoch:
            _end_epoch(trainer, tracker, plan, done, batches)
        if ends_stage:
            _end_stage(trainer)
        every = config.run.checkpoint_every
        if ends_epoch or (every is not None and done % every == 0):
            _save_checkpoint(trainer, done, is_last=done == trainer.total_steps)
            tracker.restart_clock(done)


def _train_step(
    trainer: Trainer, plan: StagePlan, step: int, batches: Batches
) -> tuple[StepOutput, Tensor]:
    config, accelerator = trainer.config, trainer.accelerator
    rate = plan.learning_rate(step, config, trainer.steps_per_epoch)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    if plan.stage != "denoiser":
        _follow_budget(trainer, plan, step)
    epoch, index = divmod(step, trainer.steps_per_epoch)
    order = epoch_order(len(trainer.splits.train), config.run.seed, epoch)
    size = config.data.batch_size
    share = share_of(accelerator, size)
    flips = None
    if config.data.flip:
        flips = torch.rand(size, generator=generator(config.run.seed, "flips", step))[share] < 0.5
    indices = order[index * size :][:size][share]
    draws = make_draws(config, size, "draws", step, accelerator.device).part(share)
    output, norm = training_step(
        trainer.model,
        trainer.optimizer,
        batches.train(indices, flips),
        draws,
        config,
        accelerator,
        plan.stage,
        batches.tell_train(indices, draws.condition_drops),
        trainer.feature_network,
    )
    if trainer.ema is not None:
        trainer.ema.step(trainer.system.parameters())
    return output, norm


def _follow_budget(trainer: Trainer, plan: StagePlan, step: int) -> None:
    if trainer.system.gate is not None:
        follow_budget(trainer.system.gate, trainer.config.gate, plan.progress(step))


def _refuse_divergence(output: StepOutput, step: int, config: RunConfig) -> None:
    if not torch.isfinite(output.losses.total_loss):
        raise RunError(
            f"The loss is {float(output.losses.total_loss)} at step {step}: lower "
            f"--optimizer.learning-rate (now {config.optimizer.learning_rate})."
        )


def _end_epoch(
    trainer: Trainer, tracker: Tracker, plan: StagePlan, step: int, batches: Batches
) -> None:
    run, output = trainer.config.run, None
    with _averaged_weights(trainer):
        if _is_due(trainer, plan, step, run.validate_every):
            output = _validate(trainer, tracker, plan, step, batches)
        is_told = plan.stage != "autoencoder" and trainer.config.network.num_classes
        if run.samples_every and is_told and _is_due(trainer, plan, step, run.samples_every):
            _draw_samples(trainer, tracker, step)
    if output is not None:
        _watch_for_collapse(trainer, tracker, step, step / trainer.steps_per_epoch, output)


@contextmanager
def _averaged_weights(trainer: Trainer) -> Iterator[None]:
    """The moving average in the weights' place, where there is one."""
    if trainer.ema is None:
        yield
        return
    trainer.ema.store(trainer.system.parameters())
    trainer.ema.copy_to(trainer.system.parameters())
    yield
    trainer.ema.restore(trainer.system.parameters())


def _is_due(trainer: Trainer, plan: StagePlan, step: int, every: int) -> bool:
    """Whether this end of an epoch is one in `every`, or the stage's last."""
    epoch = (step - plan.first_step) // trainer.steps_per_epoch
    return step == plan.last_step or epoch % every == 0


def _validate(
    trainer: Trainer, tracker: Tracker, plan: StagePlan, step: int, batches: Batches
) -> StepOutput:
    gate = trainer.system.gate
    is_hard = gate is not None and gate.is_hard
    before = [
        line["total_loss"]
        for line in trainer.folder.metrics("validation")
        if (line.get("stage", "joint"), line.get("is_hard", False)) == (plan.stage, is_hard)
    ]
    output = validate_model(
        trainer.model,
        batches.test,
        batches.tell_test,
        len(trainer.splits.test),
        trainer.config,
        trainer.accelerator,
        plan.stage,
        trainer.feature_network,
    )
    tracker.record(
        "validation",
        step,
        step / trainer.steps_per_epoch,
        output,
        plan.stage,
        is_hard=is_hard,
        masked_latent_std=output.masked_latent_std().tolist(),
    )
    is_best = float(output.losses.total_loss) <= min(before, default=float("inf"))
    if trainer.accelerator.is_main_process and is_best:
        pipeline = to_pipeline(trainer.system, trainer.splits.train.class_names)
        write_folder(trainer.folder.model, pipeline.save_pretrained)
    return output


def _draw_samples(trainer: Trainer, tracker: Tracker, step: int) -> None:
    if not trainer.accelerator.is_main_process:
        return
    drawn = draw_classes(trainer.system, trainer.config)
    path = trainer.folder.samples / f"step_{step}.png"
    drawn.save_grid(path)
    accuracy = judge_classes(drawn.pictures, drawn.labels, trainer.splits.train.class_names)
    epoch = step / trainer.steps_per_epoch
    tracker.record_samples(step, epoch, path, len(drawn.labels), accuracy)


def _watch_for_collapse(
    trainer: Trainer, tracker: Tracker, step: int, epoch: float, output: StepOutput
) -> None:
    masks, deviations = output.mask_mean.tolist(), output.masked_latent_std().tolist()
    verdict = judge(CollapseEvidence(masks, deviations))
    if verdict.verdict not in ("shrunken", "collapsed"):
        return
    if not trainer.folder.metrics("event"):
        tracker.record_event(step, epoch, verdict)
    if trainer.config.run.on_collapse == "stop":
        _save_checkpoint(trainer, step, is_last=False)
        trainer.accelerator.wait_for_everyone()
        _refuse_collapsed(trainer.folder)


def _refuse_collapsed(folder: RunFolder) -> None:
    for event in folder.metrics("event"):
        raise RunError(
            f"Stopped at step {event['step']}: {event['verdict']}, {event['reasons'][0]}. "
            "A new run with `--run.on-collapse warn` trains on."
        )


def _end_stage(trainer: Trainer) -> None:
    """The moving average becomes the weights: the next stage builds on what was measured."""
    if trainer.ema is not None:
        trainer.ema.copy_to(trainer.system.parameters())
        trainer.ema.optimization_step = 0


def _save_checkpoint(trainer: Trainer, step: int, *, is_last: bool) -> None:
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        save_checkpoint(
            trainer.folder.checkpoints,
            step,
            trainer.config.run.keep_checkpoints,
            trainer.system,
            trainer.optimizer,
            trainer.ema,
            is_last=is_last,
        )
    trainer.accelerator.wait_for_everyone()
