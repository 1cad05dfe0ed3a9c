"""What of a run's config may change when it is resumed."""

from dataclasses import replace

from pelap.config import RunConfig, as_option
from pelap.errors import ConfigError
from pelap.overrides import refuse_others

LENGTH = ("run.epochs", "run.denoiser_epochs", "run.max_steps", "optimizer.cooldown_epochs")
AT_ANY_TIME = (
    "data.path",
    "data.memory_gb",
    "evaluation",
    "run.latent_cache",
    "run.on_collapse",
    "run.compile",
    "run.log_every",
    "run.checkpoint_every",
    "run.validate_every",
    "run.samples_every",
    "run.keep_checkpoints",
    "run.tracker",
)


def check_changes(config: RunConfig, own: RunConfig, step: int) -> None:
    """Refuse changes that would make what was trained so far another run's.

    Args:
        config: To go on with.
        own: What the run was trained with.
        step: Steps it has taken.

    Raises:
        ConfigError: Names the setting.
    """
    refuse_others(config, own, (*LENGTH, *AT_ANY_TIME))
    if step == 0 or _with_length_of(config, own) == config:
        return
    if own.optimizer.schedule != "trapezoid":
        raise ConfigError(
            "This run's learning rate was made for its length "
            f"(schedule {own.optimizer.schedule}): only runs with schedule trapezoid can change it."
        )
    if config.run.epochs != own.run.epochs and own.run.denoiser_epochs:
        raise ConfigError(
            f"{as_option('run.epochs')} cannot be changed here: the denoiser's training follows it."
        )


def _with_length_of(config: RunConfig, own: RunConfig) -> RunConfig:
    run = replace(
        config.run,
        epochs=own.run.epochs,
        denoiser_epochs=own.run.denoiser_epochs,
        max_steps=own.run.max_steps,
    )
    optimizer = replace(config.optimizer, cooldown_epochs=own.optimizer.cooldown_epochs)
    return replace(config, run=run, optimizer=optimizer)
