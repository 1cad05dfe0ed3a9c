"""The models of a trade-off: opened, told apart, and checked for what must be among them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pelap.core.errors import ConfigError, ModelError
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

    def point(self, measured: dict[str, Any]) -> TradeoffPoint:
        """As it stands on the page."""
        return to_point(measured, self.model.name, self.model.history)


def open_subjects(paths: Sequence[str | Path]) -> list[ComparedModel]:
    """All models: the unpruned first, then those pruned at random, then the others.

    Raises:
        ConfigError: If one is given twice, or an unpruned or a random one is missing.
        ModelError: If one cannot be opened, or has no denoiser.
    """
    labels = labels_of(paths)
    found = [
        ComparedModel(replace(open_model(path), name=label))
        for path, label in zip(paths, labels, strict=True)
    ]
    for subject in found:
        if subject.model.denoiser is None:
            raise ModelError(f"{subject.model.name} has no denoiser: give models that sample.")
        subject.model.check()
    roles = {subject.role for subject in found}
    if "unpruned" not in roles:
        raise ConfigError("None of these models is unpruned: add the one they were pruned from.")
    if "random" not in roles:
        raise ConfigError(
            "None of these models was pruned at random: add what `pelap prune MODEL --criterion "
            "random --keep K` (for width: --denoiser-criterion random) writes."
        )
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
