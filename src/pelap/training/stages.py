"""What a run trains when: all together, or the autoencoder first and then the denoiser."""

from dataclasses import dataclass

from pelap.config.run_config import RunConfig
from pelap.method.step import cosine_learning_rate, trapezoid_learning_rate
from pelap.method.system import Stage


@dataclass(frozen=True)
class StagePlan:
    """Steps `first_step` to `last_step` (excluded) of a run."""

    stage: Stage
    first_step: int
    num_steps: int
    num_epochs: float
    """Passes over the pictures that the learning rate is made for."""

    @property
    def last_step(self) -> int:
        return self.first_step + self.num_steps

    def progress(self, step: int) -> float:
        """Fraction of the stage done before `step`."""
        return (step - self.first_step) / self.num_steps

    def learning_rate(self, step: int, config: RunConfig, steps_per_epoch: int) -> float:
        """Of the networks, at `step`."""
        done = step - self.first_step
        warmup = config.optimizer.warmup_steps
        rise = min(1.0, (done + 1) / warmup) if warmup else 1.0
        if config.optimizer.schedule == "trapezoid":
            left = (self.num_steps - done) / steps_per_epoch
            return rise * trapezoid_learning_rate(left, config)
        whole_epochs = config.optimizer.schedule == "epoch"
        epoch = done // steps_per_epoch if whole_epochs else done / steps_per_epoch
        total = self.num_epochs if whole_epochs else self.num_steps / steps_per_epoch
        return rise * cosine_learning_rate(epoch, total, config)


def plan_stages(config: RunConfig, steps_per_epoch: int) -> tuple[StagePlan, ...]:
    """The stages of a run in their order; `run.max_steps` cuts each of them."""
    run = config.run

    def plan(stage: Stage, first_step: int, epochs: int) -> StagePlan:
        steps = epochs * steps_per_epoch
        return StagePlan(stage, first_step, min(steps, run.max_steps or steps), epochs)

    if run.denoiser_epochs is None:
        return (plan("joint", 0, run.epochs),)
    if run.autoencoder is not None:
        return (plan("denoiser", 0, run.denoiser_epochs),)
    first = plan("autoencoder", 0, run.epochs)
    if run.denoiser_epochs == 0:
        return (first,)
    return (first, plan("denoiser", first.last_step, run.denoiser_epochs))
