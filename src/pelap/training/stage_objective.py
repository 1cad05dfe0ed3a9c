"""One stage of a run as the loop's objective, and what ends its epochs: validation, samples."""

from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import DataError, RunError
from pelap.core.files import write_folder
from pelap.data.load import CIFAR10_CLASSES
from pelap.data.pictures import Splits
from pelap.measure.collapse import CollapseEvidence, judge
from pelap.measure.features import load_resnet20
from pelap.measure.run_sampling import draw_samples, save_pictures
from pelap.method.cifar_resnet import CifarResNet
from pelap.method.gates import follow_budget
from pelap.method.pipeline import to_pipeline
from pelap.method.step import StepOutput, forward_step, in_precision, make_draws
from pelap.method.system import Draws, LatentDiffusion
from pelap.training.loop import DivergenceError, Loop, Objective, reduced
from pelap.training.stages import StagePlan
from pelap.training.training_batches import StageInputs, draw_pictures, share_of

MOST_COLUMNS = 10
"""Samples of a class in a grid."""


@dataclass(frozen=True)
class RunParts:
    """What all stages of a run share."""

    config: RunConfig
    splits: Splits
    accelerator: Accelerator
    system: LatentDiffusion
    """The networks themselves."""
    model: nn.Module
    """The same, wrapped for several processes and mixed precision."""
    feature_network: CifarResNet | None
    """What the feature loss compares with, where there is such a loss."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rest of the seeded order is left for other epochs."""
        return len(self.splits.train) // self.config.data.batch_size


class StageObjective(Objective):
    """Training all networks together, or first the autoencoder and then the denoiser.

    Args:
        parts: Of the run.
        plan: Of the stage.
        train: What it trains on.
        test: What it is validated on.
    """

    def __init__(self, parts: RunParts, plan: StagePlan, train: StageInputs, test: StageInputs):
        self.parts, self.plan = parts, plan
        self.train, self.test = train, test
        self.config = parts.config
        self.stage = plan.stage
        rate = self.config.optimizer.learning_rate
        self.remedy = f"lower --optimizer.learning-rate (now {rate})"
        data = self.config.data
        self.tried = f"{data.batch_size} pictures of {data.size} pixels a step"
        self.smaller = "lower --data.batch-size, or --data.size"
        self.steps_per_epoch = parts.steps_per_epoch
        self.clipped = [list(parts.model.parameters())]
        self.max_gradient_norm = self.config.optimizer.max_gradient_norm or float("inf")

    def learning_rate(self, step: int) -> float:
        return self.plan.learning_rate(step, self.config.optimizer, self.steps_per_epoch)

    def forward(self, step: int) -> StepOutput:
        self._follow_budget(step)
        data, seed = self.config.data, self.config.run.seed
        share = share_of(self.parts.accelerator, data.batch_size)
        num_pictures = len(self.parts.splits.train)
        indices, flips = draw_pictures(
            step, num_pictures, data.batch_size, seed, flip=data.flip, share=share
        )
        device = self.parts.accelerator.device
        draws = make_draws(self.config, data.batch_size, "draws", step, device).part(share)
        self.parts.model.train()
        return self._losses(self.train, indices, draws, flips=flips, drops=draws.condition_drops)

    def is_logged(self, done: int) -> bool:
        return done % self.config.run.log_every == 0 or self._ends_epoch(done)

    def is_saved(self, done: int) -> bool:
        every = self.config.run.checkpoint_every
        return self._ends_epoch(done) or (every is not None and done % every == 0)

    def end_step(self, loop: Loop, done: int) -> None:
        """At the end of an epoch: validate, draw samples, and watch for collapse, where due."""
        if done == self.plan.last_step:
            self._follow_budget(done)  # also where the steps were too few to get there
        if not self._ends_epoch(done):
            return
        run, output = self.config.run, None
        with loop.state.averaged():
            if self._is_due(done, run.validate_every):
                output = self._validate(loop, done)
            has_classes = self.stage != "autoencoder" and self.config.network.num_classes
            if run.samples_every and has_classes and self._is_due(done, run.samples_every):
                self._draw_samples(loop, done)
        if output is None:
            return
        if not torch.isfinite(output.total_loss):
            raise DivergenceError(
                f"The loss is {float(output.total_loss)} in validation after step {done}: "
                f"{self.remedy}."
            )
        self._watch_for_collapse(loop, done, output)

    def _ends_epoch(self, done: int) -> bool:
        whole = (done - self.plan.first_step) % self.steps_per_epoch == 0
        return whole or done == self.plan.last_step

    def _is_due(self, done: int, every: int) -> bool:
        """Whether this end of an epoch is one in `every`, or the stage's last."""
        epoch = (done - self.plan.first_step) // self.steps_per_epoch
        return done == self.plan.last_step or epoch % every == 0

    def _follow_budget(self, step: int) -> None:
        gate = self.parts.system.gate
        if gate is not None and self.stage != "denoiser":
            follow_budget(gate, self.config.gate, self.plan.progress(step))

    def _losses(
        self,
        inputs: StageInputs,
        indices: Tensor,
        draws: Draws,
        *,
        flips: Tensor | None = None,
        drops: Tensor | None = None,
    ) -> StepOutput:
        return forward_step(
            self.parts.model,
            inputs.fetch(indices, flips),
            draws,
            self.config,
            self.plan.stage,
            inputs.tell(indices, drops),
            self.parts.feature_network,
        )

    def _validate(self, loop: Loop, done: int) -> StepOutput:
        """Record the losses over the test split, and save the model if they are the best so far."""
        gate = self.parts.system.gate
        is_hard = gate is not None and gate.is_hard
        before = [
            line["total_loss"]
            for line in loop.folder.metrics("validation")
            if (line.get("stage", "joint"), line.get("is_hard", False)) == (self.stage, is_hard)
        ]
        output = self._test_losses()
        fields = {
            "stage": self.stage,
            **output.figures(),
            "is_hard": is_hard,
            "masked_latent_std": output.masked_latent_std().tolist(),
        }
        loop.tracker.record("validation", done, done / self.steps_per_epoch, fields)
        is_best = float(output.total_loss) <= min(before, default=float("inf"))
        if loop.accelerator.is_main_process and is_best:
            pipeline = to_pipeline(self.parts.system, self.parts.splits.train.class_names)
            write_folder(loop.folder.model, pipeline.save_pretrained)
        return output

    @torch.no_grad()
    def _test_losses(self) -> StepOutput:
        """Mean losses over the test split, with the same draws at every call."""
        self.parts.model.eval()
        accelerator, num_pictures = self.parts.accelerator, len(self.parts.splits.test)
        total, output = torch.zeros((), device=accelerator.device), None
        for index, indices in enumerate(
            torch.arange(num_pictures).split(self.config.evaluation.batch_size)
        ):
            share = share_of(accelerator, len(indices))
            part = indices[share]
            if len(part) == 0:
                continue
            size, device = len(indices), accelerator.device
            draws = make_draws(self.config, size, "validation", index, device)
            output = self._losses(self.test, part, draws.part(share))
            total = total + len(part) * output.to_vector()
        assert output is not None
        return output.from_vector(reduced(accelerator, total, "sum") / num_pictures)

    def _draw_samples(self, loop: Loop, done: int) -> None:
        if not loop.accelerator.is_main_process:
            return
        pictures, labels = draw_classes(self.parts.system, self.config)
        path = loop.folder.samples / f"step_{done}.png"
        rows = pictures.unflatten(0, (self.config.network.num_classes, -1))[:, :MOST_COLUMNS]
        save_pictures(rows.flatten(0, 1), rows.shape[1], path)
        accuracy = judge_classes(pictures, labels, self.parts.splits.train.class_names)
        num, shown = len(labels), str(path.relative_to(loop.folder.path))
        fields = {"grid": shown, "num_samples": num, "class_accuracy_resnet20": accuracy}
        judged = "" if accuracy is None else f" · the asked class in {accuracy:.1%} of {num}"
        loop.tracker.record("samples", done, done / self.steps_per_epoch, fields, shown + judged)

    def _watch_for_collapse(self, loop: Loop, done: int, output: StepOutput) -> None:
        masks, deviations = output.mask_mean.tolist(), output.masked_latent_std().tolist()
        verdict = judge(CollapseEvidence(masks, deviations))
        if verdict.verdict not in ("shrunken", "collapsed"):
            return
        if not loop.folder.metrics("event"):
            words, epoch = f"{verdict.verdict}: {verdict.reasons[0]}", done / self.steps_per_epoch
            fields = {"verdict": verdict.verdict, "reasons": verdict.reasons}
            loop.tracker.record("event", done, epoch, fields, words, "bold red")
        if self.config.run.on_collapse == "stop":
            loop.save(done, is_last=False)
            refuse_collapsed(loop.folder)


def refuse_collapsed(folder: RunFolder) -> None:
    """Go no further with a run whose model has collapsed.

    Raises:
        RunError: If its metrics say so.
    """
    for event in folder.metrics("event"):
        raise RunError(
            f"Stopped at step {event['step']}: {event['verdict']}, {event['reasons'][0]}. "
            "A new run with `--run.on-collapse warn` trains on."
        )


def draw_classes(system: LatentDiffusion, config: RunConfig) -> tuple[Tensor, Tensor]:
    """Samples with fixed noise, as the config's evaluation says; at least one of each class.

    Returns:
        Pictures, uint8 (K·n, 3, H, W), class by class; their labels, int64 (K·n,).
    """
    num_classes = config.network.num_classes
    of_each = max(1, config.evaluation.num_samples // num_classes)
    labels = torch.arange(num_classes).repeat_interleave(of_each)
    config = replace(config, evaluation=replace(config.evaluation, num_samples=len(labels)))
    device = next(system.parameters()).device
    with in_precision(config.run.precision, device):
        return draw_samples(system.eval(), config, labels=labels), labels


def judge_classes(pictures: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> float | None:
    """Share of pictures, uint8 (N, 3, H, W), in which a ResNet-20 sees their class.

    Returns:
        In [0, 1]; None where it cannot tell, for it knows CIFAR-10's classes at 32×32 only and
        needs its weights.
    """
    if class_names != CIFAR10_CLASSES or pictures.shape[-2:] != (32, 32):
        return None
    try:
        network = load_resnet20()
    except DataError:
        return None
    return float((network.classify(pictures) == labels).float().mean())
