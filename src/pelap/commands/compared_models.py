"""The models of a comparison: opened, named apart, the one that is the reference first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pelap.core.digests import digest
from pelap.core.errors import ConfigError, ModelError
from pelap.core.json_values import JsonObject
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.pages.tradeoff_points import Role, TradeoffPoint, role_of, to_point

ORDER: tuple[Role, ...] = ("unpruned", "random", "pruned")


@dataclass(frozen=True)
class ComparedModel:
    """One of the models, under a name that no other one has."""

    model: LoadedModel

    @property
    def role(self) -> Role:
        """From its record."""
        return role_of(self.model.history)

    @property
    def gate(self) -> str | None:
        """Of the run that it is, where that had one; every channel is open here."""
        config = self.model.config
        return None if config is None or config.gate.kind == "open" else config.gate.kind

    def point(self, measured: JsonObject, base: LoadedModel) -> TradeoffPoint:
        """As it stands on the page, held against a base."""
        changed = self.model is not base and denoiser_changed(self.model, base)
        point = to_point(measured, self.model.name, self.model.history)
        return replace(point, denoiser_changed=changed)


def denoiser_changed(model: LoadedModel, base: LoadedModel) -> bool:
    """Whether a denoiser's class, config or weights are not those of the base's."""
    if model.denoiser is base.denoiser:
        return False
    return digest(model.denoiser) != digest(base.denoiser)


def giver_of(subjects: Sequence[ComparedModel]) -> LoadedModel:
    """The model that says which pictures: the first run among them, or the reference."""
    return next((s.model for s in subjects if s.model.config is not None), subjects[0].model)


def open_subjects(paths: Sequence[str | Path]) -> list[ComparedModel]:
    """All models: the unpruned first, then those pruned at random, then the others.

    The first is what the others are held against.

    Raises:
        ConfigError: If none is given, or one twice.
        ModelError: If one cannot be opened, or has no denoiser.
    """
    if not paths:
        raise ConfigError("Give MODEL: one or several models; see `pelap compare --help`.")
    labels = labels_of(paths)
    found = [
        ComparedModel(replace(open_model(path), name=label))
        for path, label in zip(paths, labels, strict=True)
    ]
    for subject in found:
        if subject.model.denoiser is None:
            raise ModelError(f"{subject.model.name} has no denoiser: give models that sample.")
        subject.model.check()
    return sorted(found, key=lambda subject: ORDER.index(subject.role))


def labels_of(paths: Sequence[str | Path]) -> list[str]:
    """Folder names; with the folder above where two are alike.

    Raises:
        ConfigError: If that does not tell them apart.
    """
    folders = [Path(path).resolve() if Path(path).exists() else Path(path) for path in paths]
    names = Counter(folder.name for folder in folders)
    labels = [
        f"{folder.parent.name}/{folder.name}" if names[folder.name] > 1 else folder.name
        for folder in folders
    ]
    for label, count in Counter(labels).items():
        if count > 1:
            raise ConfigError(f"{label} is given twice: name each model once, by its own folder.")
    return labels
