"""What of a run's config may change when it is resumed."""

from dataclasses import fields
from operator import attrgetter

from pelap.config.overrides import refuse_others
from pelap.config.run_config import EvaluationConfig, RunConfig, as_option
from pelap.core.errors import ConfigError

LENGTH = ("run.epochs", "run.denoiser_epochs", "run.max_steps", "optimizer.cooldown_epochs")
AT_ANY_TIME = (
    "data.path",
    "data.memory_gb",
    *(
        f"evaluation.{field.name}"
        for field in fields(EvaluationConfig)
        if field.name != "batch_size"  # it decides the noise of validation
    ),
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
    changed = [name for name in LENGTH if attrgetter(name)(config) != attrgetter(name)(own)]
    if step == 0 or not changed:
        return
    if own.optimizer.schedule != "trapezoid":
        raise ConfigError(
            "This run's learning rate was made for its length "
            f"(schedule {own.optimizer.schedule}): only runs with schedule trapezoid can change it."
        )
    if (config.run.denoiser_epochs is None) != (own.run.denoiser_epochs is None):
        raise ConfigError(
            f"{as_option('run.denoiser_epochs')} cannot be changed here: one training of both "
            "networks is not the same as one after the other."
        )
    if own.run.denoiser_epochs and own.run.autoencoder is None:
        for name in ("run.epochs", "run.max_steps"):  # they say where the denoiser's begins
            if name in changed:
                raise ConfigError(
                    f"{as_option(name)} cannot be changed here: the denoiser's training follows it."
                )
