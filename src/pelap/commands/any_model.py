"""What the public functions take as a model and as pictures."""

import copy
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from pelap.commands.verb_settings import Result
from pelap.config.prompts import VARIED, PromptPictures
from pelap.config.run_config import DataConfig, DataSource, RunConfig
from pelap.core.errors import ConfigError
from pelap.core.notes import note
from pelap.models.card import whole_card
from pelap.models.drawn_pictures import draw_pictures
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.models.saving import ChangedModel, save_model
from pelap.models.unconditional import without_condition

SOURCES: tuple[DataSource, ...] = ("photos", "cifar10")
"""That need no path."""


class ModelResult(Result):
    """A result with a changed model in it."""

    @abstractmethod
    def change(self) -> tuple[LoadedModel, ChangedModel]:
        """The model as it was, and what takes the place of its networks."""

    def loaded(self) -> LoadedModel:
        """The model, with what was done to it last in its history."""
        model, changed = self.change()
        changed = replace(
            changed,
            autoencoder=copy.copy(changed.autoencoder),
            denoiser=copy.copy(changed.denoiser),
        )
        changed.note_in_config(model.history)
        networks = {"autoencoder": changed.autoencoder, "denoiser": changed.denoiser}
        return replace(model, **networks, card=whole_card(model, changed.card))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write an ordinary diffusers folder with its card and what belongs to it.

        Raises:
            ConfigError: If something stands there that is not to be replaced.
        """
        save_model(*self.change(), Path(folder), overwrite=overwrite)

    def pipeline(self) -> DiffusionPipeline:
        """The model as its own stock diffusers pipeline, in memory; nothing is written.

        Raises:
            ModelError: If it is an autoencoder on its own, or its other parts cannot be loaded.
        """
        return self.loaded().pipeline()


AnyModel = LoadedModel | ModelResult | DiffusionPipeline | str | Path
"""A model from `open_model`, the result of an earlier step, or what `open_model` takes."""
AnyPictures = DataConfig | PromptPictures | RunConfig | None
"""From `pictures`; from `prompts`, then the model draws them; a
whole run's config; or None for the pictures of the run that a model is of."""


def as_model(model: AnyModel) -> LoadedModel:
    """The model, opened where it is not yet; see `open_model` for the errors."""
    if isinstance(model, LoadedModel):
        return model
    return model.loaded() if isinstance(model, ModelResult) else open_model(model)


def pictures(source: str | Path, size: int = DataConfig.size, **settings: Any) -> DataConfig:
    """Say which pictures to measure or train on.

        pelap.pictures("holiday/", size=512, resize=True)

    Args:
        source: photos (embedded), cifar10, a folder with a folder of pictures for each class, a
            parquet file, or a data set's id on the hub.
        size: Side of the square pictures in pixels, a multiple of 8.
        **settings: Further fields of `DataConfig`, e.g. `resize`, `num_train`.

    Returns:
        The choice; nothing is read yet.
    """
    kind: DataSource | None = next((known for known in SOURCES if known == source), None)
    if kind is not None:
        return DataConfig(source=kind, size=size, **settings)
    found: DataSource = "folder" if Path(source).is_dir() else "dataset"
    return DataConfig(source=found, path=str(source), size=size, **settings)


def prompts(source: str | Path = VARIED, num: int = 1000, **settings: Any) -> PromptPictures:
    """Let the unpruned model draw the pictures itself, from prompts or from its classes.

        pelap.recover(small, pelap.prompts("prompts.txt", guidance=4.0), teacher=model, steps=1000)

    Args:
        source: A file with one prompt a line; "varied" for 200 that come with pelap; "classes" for
            those of a model that takes classes.
        num: Of the pictures.
        **settings: Further fields of `PromptPictures`: guidance, num_steps, seed.

    Returns:
        The choice; nothing is drawn yet.
    """
    return PromptPictures(str(source), num, **settings)


def as_pictures(
    model: LoadedModel, chosen: AnyPictures, drawer: LoadedModel | None = None
) -> RunConfig:
    """The config that says which pictures; those from prompts are drawn now.

    Args:
        model: Whose run has pictures, perhaps.
        chosen: Or None for those.
        drawer: Draws those from prompts; by default the model.

    Raises:
        ConfigError: If nothing says so.
    """
    if isinstance(chosen, RunConfig):
        return chosen
    if chosen is None and model.config is None:
        raise ConfigError(f"{model.name} names no pictures: give pictures=pelap.pictures(…).")
    own = model.config or RunConfig()
    if isinstance(chosen, PromptPictures):
        return replace(own, data=draw_pictures(drawer or model, chosen))
    return own if chosen is None else replace(own, data=chosen)


def told_nothing(model: LoadedModel, config: RunConfig | None) -> LoadedModel:
    """The model, its denoiser run on an empty prompt; said on stderr where that changes nothing."""
    changed = model if config is None else without_condition(model, config.data.size)
    if changed is model:
        why = f"{model.name} wants no condition" if config else "there are no pictures"
        note(f"--unconditional has no effect: {why}.")
    return changed
