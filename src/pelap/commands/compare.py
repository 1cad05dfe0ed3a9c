"""Models compared, quality against cost: measure each once, then draw them all."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pelap.commands.any_model import AnyPictures, as_pictures
from pelap.commands.compare_measure import TradeoffSettings, fingerprint, measure_model
from pelap.commands.verb_settings import Result
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import write_json
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError, ModelError
from pelap.measure.machine import machine, versions
from pelap.measure.model_quality import References, make_references
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures
from pelap.models.opening import open_model
from pelap.pages.tradeoff_page import PAGE, Findings, find, write_tradeoff
from pelap.pages.tradeoff_points import (
    Role,
    TradeoffPoint,
    role_of,
    to_point,
)
from pelap.pages.tradeoff_words import SAME_SIZE

RESULT, MEASURED = "tradeoff.json", "measured"
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


@dataclass(frozen=True)
class ModelComparison(Result):
    """Models beside each other."""

    page: Path
    """Self-contained HTML."""
    points: tuple[TradeoffPoint, ...]
    """A model each, the unpruned one first."""
    measured: tuple[dict[str, Any], ...]
    """Quality and cost of each, with intervals."""
    findings: Findings
    """What the numbers say, in sentences."""
    notes: tuple[str, ...]
    """How it was measured."""
    settings: TradeoffSettings

    def describe(self) -> str:
        """The findings, then where the page is."""
        return "\n".join([self.findings.lead, *self.findings.sentences, str(self.page)])

    def as_dict(self) -> dict[str, Any]:
        """What tradeoff.json holds."""
        pairs = zip(self.points, self.measured, strict=True)
        return {
            "models": [{**asdict(point), "measured": measured} for point, measured in pairs],
            "findings": asdict(self.findings),
            "notes": list(self.notes),
            "settings": asdict(self.settings),
            "machine": machine(),
            "versions": versions(),
        }


def compare(
    models: Sequence[str | Path],
    output: str | Path,
    pictures: AnyPictures = None,
    **settings: Any,
) -> ModelComparison:
    """Measure every model and write tradeoff.html, tradeoff.json and figures/ into `output`.

    What has been measured stays in output/measured/, so that the same call goes on.

        pelap.compare(["model", "half", "half_random"], "page", pelap.pictures("cifar10"))

    Args:
        models: Folders, runs or hub ids; at least one is unpruned, and one pruned at random.
        output: Folder, made if need be.
        pictures: Those of the first run among the models by default.
        **settings: Fields of `TradeoffSettings`.

    Returns:
        Quality and cost of each model, and what that says.

    Raises:
        ConfigError: If a setting is wrong, or an unpruned or a random model is missing.
        ModelError: If a model cannot be opened, or has no denoiser.
        DataError: If the pictures cannot be read.
    """
    chosen, output = TradeoffSettings(**settings), Path(output)
    check_comparison(output, chosen)
    subjects = open_subjects(models)
    return compare_subjects(subjects, output, as_pictures(giver_of(subjects), pictures), chosen)


def check_comparison(output: Path, settings: TradeoffSettings) -> None:
    """Refuse what cannot be measured or written before a model is opened.

    Raises:
        ConfigError: One line.
    """
    settings.check()
    if output.is_file():
        raise ConfigError(f"--output {output} is a file: give a folder.")


def giver_of(subjects: Sequence[ComparedModel]) -> LoadedModel:
    """The model that says which pictures: the first run among them, or the unpruned model."""
    return next((s.model for s in subjects if s.model.config is not None), subjects[0].model)


def compare_subjects(
    subjects: Sequence[ComparedModel], output: Path, config: RunConfig, settings: TradeoffSettings
) -> ModelComparison:
    """Measure opened models, the unpruned one first; otherwise as `compare`."""
    unpruned = subjects[0].model
    references = make_references(unpruned, config, settings, torch_device())
    measured = [
        _measure_once(subject.model, unpruned, config, settings, references, output / MEASURED)
        for subject in subjects
    ]
    points = [s.point(found) for s, found in zip(subjects, measured, strict=True)]
    notes = _notes(subjects, config, settings, references)
    result = ModelComparison(
        output / PAGE, tuple(points), tuple(measured), find(points, points[0]), tuple(notes),
        settings,
    )  # fmt: skip
    write_tradeoff(points, notes, output)
    write_json(output / RESULT, result.as_dict())
    return result


def _measure_once(
    model: LoadedModel,
    unpruned: LoadedModel,
    config: RunConfig,
    settings: TradeoffSettings,
    references: References,
    folder: Path,
) -> dict[str, Any]:
    """What a file says, or else what is measured now and written there."""
    digest = fingerprint(model, unpruned, config, settings, references.extractor)
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", model.name).strip("-")[:60]
    path = folder / f"{slug}-{digest[:12]}.json"
    if path.is_file():
        return json.loads(path.read_text())
    found = measure_model(model, unpruned, config, settings, references)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found


def _notes(
    subjects: Sequence[ComparedModel],
    config: RunConfig,
    settings: TradeoffSettings,
    references: References,
) -> list[str]:
    num_references = len(references.originals)
    num_decoded = len(references.reconstructions)
    notes = [
        f"Pictures: {describe_pictures(config)}. PSNR and rFD: {num_decoded:,} test pictures, "
        "decoded from the encoder's mean; intervals resample the pictures.",
        f"Time: whole samplings ({settings.sampler}, {settings.steps} steps, decoding included) in "
        f"alternation with {subjects[0].model.name}, relative to it; the median of "
        f"{settings.rounds} rounds, and their least and greatest. Machine: {machine()}.",
        "A difference counts where intervals do not overlap. Same size: MACs of a step, parameters "
        f"and latent bytes (float32) less than {SAME_SIZE:.0%} apart.".replace("%", " %"),
    ]
    if references.extractor is None:
        notes.append(f"No Fréchet distances: {references.reason}")
    elif all(s.model.system().denoiser is not None for s in subjects):
        notes.append(
            f"FD: {settings.num_samples:,} samples of each model against {num_references:,} test "
            f"pictures, and (to unpruned) against {num_decoded:,} reconstructions by "
            f"{subjects[0].model.name}. Distances from other numbers are no match for these."
        )
    notes += [
        f"{s.model.name}: no samples, its denoiser needs more than latents and a timestep."
        for s in subjects
        if s.model.system().denoiser is None
    ]
    notes += [
        f"{s.model.name} was trained with a gate ({s.gate}); here every channel is open."
        for s in subjects
        if s.gate is not None
    ]
    return notes


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
