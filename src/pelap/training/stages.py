"""What a run trains when: all together, or the autoencoder first and then the denoiser."""

from dataclasses import dataclass

from pelap.config.run_config import OptimizerConfig, RunConfig
from pelap.method.system import Stage
from pelap.training.schedules import cosine_learning_rate, trapezoid_learning_rate


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

    def learning_rate(self, step: int, config: OptimizerConfig, steps_per_epoch: int) -> float:
        """Of the networks, at `step`."""
        done = step - self.first_step
        rise = min(1.0, (done + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if config.schedule == "trapezoid":
            return rise * trapezoid_learning_rate((self.num_steps - done) / steps_per_epoch, config)
        if config.schedule == "epoch":
            return rise * cosine_learning_rate(done // steps_per_epoch, self.num_epochs, config)
        return rise * cosine_learning_rate(done, self.num_steps, config)


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
