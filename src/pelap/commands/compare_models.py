"""Models compared, quality against cost: measure each once, then draw them all."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pelap.commands.any_model import AnyPictures, as_pictures
from pelap.commands.compare_denoisers import measure_denoisers
from pelap.commands.compare_drawn import DrawnComparison, compare_drawn
from pelap.commands.compare_measure import TradeoffSettings, fingerprint, measure_model
from pelap.commands.compare_pictures import RowSettings, draw_side_by_side
from pelap.commands.compared_models import ComparedModel, giver_of, open_subjects
from pelap.commands.verb_settings import Result
from pelap.config.run_config import RunConfig
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.core.files import write_json
from pelap.core.json_values import JsonObject
from pelap.core.output import locked
from pelap.measure.denoiser_fidelity import DenoiserFidelity
from pelap.measure.machine import machine, versions
from pelap.measure.model_quality import References, make_references
from pelap.measure.side_by_side_record import SideBySide
from pelap.models.loaded import LoadedModel
from pelap.pages.drawn_rows import describe_rows, rows_section
from pelap.pages.fidelity_table import describe_fidelity, fidelity_section
from pelap.pages.tradeoff_page import PAGE, Findings, find, write_tradeoff
from pelap.pages.tradeoff_points import TradeoffPoint
from pelap.pages.tradeoff_words import SAME_SIZE

RESULT, MEASURED = "tradeoff.json", "measured"


@dataclass(frozen=True)
class ModelComparison(Result):
    """Models beside each other."""

    page: Path
    """Self-contained HTML."""
    points: tuple[TradeoffPoint, ...]
    """A model each, the unpruned one first."""
    measured: tuple[JsonObject, ...]
    """Quality and cost of each, with intervals."""
    findings: Findings
    """What the numbers say, in sentences."""
    notes: tuple[str, ...]
    """How it was measured."""
    settings: TradeoffSettings
    drawn: SideBySide | None = None
    """The same prompts and seeds by each; None where there is nothing to ask for."""
    fidelity: Mapping[str, DenoiserFidelity] = field(default_factory=dict)
    """Of the models that were pruned from the first, by name."""

    def describe(self) -> str:
        """The findings, how far the drawn pictures are apart, then where the page is."""
        rows = describe_fidelity(self.fidelity, self.points[0].label)
        rows += [] if self.drawn is None else describe_rows(self.drawn)
        return "\n".join([self.findings.lead, *self.findings.sentences, *rows, str(self.page)])

    def as_dict(self) -> JsonObject:
        """What tradeoff.json holds."""
        pairs = zip(self.points, self.measured, strict=True)
        return {
            "models": [{**asdict(point), "measured": measured} for point, measured in pairs],
            "side_by_side": None if self.drawn is None else self.drawn.as_dict(),
            "denoisers": {name: asdict(one) for name, one in self.fidelity.items()},
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
    prompts: str | Path | None = None,
    num_prompts: int = RowSettings.num_rows,
    guidance: float | None = None,
    drawn_steps: int | None = None,
    **settings: Any,
) -> ModelComparison | DrawnComparison:
    """Measure every model and write tradeoff.html, tradeoff.json and figures/ into `output`.

    Without pictures, what the models draw and what it costs: drawn.html and drawn.json. What has
    been measured stays in output/measured/, so that the same call goes on.

        pelap.compare(["model", "half", "half_random"], "page", pelap.pictures("cifar10"))

    Args:
        models: Folders, runs or hub ids that sample. The first unpruned one, or else the first,
            is what the others are held against; one pruned at random says what chance does.
        output: Folder, made if need be.
        pictures: Those of the first run among the models by default, if there is one.
        prompts: File with a prompt or a class a line, drawn by each model from the same noise; by
            default captions or classes of the pictures, or plain seeds.
        num_prompts: Rows drawn where there is no file.
        guidance: Of the drawn rows; None is the pipeline's own, as of `drawn_steps`.
        drawn_steps: Denoising steps of the drawn rows.
        **settings: Fields of `TradeoffSettings`.

    Returns:
        Quality and cost of each model, and what that says.

    Raises:
        ConfigError: If a setting is wrong.
        ModelError: If a model cannot be opened, or has no denoiser.
        DataError: If the pictures cannot be read.
        RunError: If another command writes to `output`.
    """
    chosen, output = TradeoffSettings(**settings), Path(output)
    path = None if prompts is None else Path(prompts)
    rows = RowSettings(path, num_prompts, guidance, drawn_steps)
    check_comparison(output, chosen, rows)
    with locked(output):
        subjects = open_subjects(models)
        giver = giver_of(subjects)
        if pictures is None and giver.config is None:
            return compare_drawn(subjects, output, chosen, rows)
        config = as_pictures(giver, pictures)
        return compare_subjects(subjects, output, config, chosen, rows)


def check_comparison(output: Path, settings: TradeoffSettings, rows: RowSettings) -> None:
    """Refuse what cannot be measured or written before a model is opened.

    Raises:
        ConfigError: One line.
    """
    settings.check()
    rows.check()
    if output.is_file():
        raise ConfigError(f"--output {output} is a file: give a folder.")


def compare_subjects(
    subjects: Sequence[ComparedModel],
    output: Path,
    config: RunConfig,
    settings: TradeoffSettings,
    rows: RowSettings | None = None,
) -> ModelComparison:
    """Measure and draw with opened models, the reference first; otherwise as `compare`."""
    unpruned = subjects[0].model
    references = make_references(unpruned, config, settings, torch_device())
    measured = [
        _measure_once(subject.model, unpruned, config, settings, references, output / MEASURED)
        for subject in subjects
    ]
    points = [s.point(found, unpruned) for s, found in zip(subjects, measured, strict=True)]
    models = [subject.model for subject in subjects]
    drawn, reason = draw_side_by_side(
        models, config, rows or RowSettings(), settings.seed, references.extractor
    )
    fidelity = measure_denoisers(models, config)
    notes = _notes(subjects, settings, references)
    notes += [] if drawn is not None else [reason]
    result = ModelComparison(
        output / PAGE, tuple(points), tuple(measured), find(points, points[0]), tuple(notes),
        settings, drawn, fidelity,
    )  # fmt: skip
    more = [] if drawn is None else [rows_section(drawn)]
    more += [fidelity_section(fidelity, unpruned.name)] if fidelity else []
    write_tradeoff(points, notes, output, more)
    write_json(output / RESULT, result.as_dict())
    return result


def _measure_once(
    model: LoadedModel,
    unpruned: LoadedModel,
    config: RunConfig,
    settings: TradeoffSettings,
    references: References,
    folder: Path,
) -> JsonObject:
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
    settings: TradeoffSettings,
    references: References,
) -> list[str]:
    num_references = len(references.originals)
    num_decoded = len(references.reconstructions)
    notes = [
        f"Pictures: {references.pictures}. PSNR and rFD: {num_decoded:,} test pictures, "
        "decoded from the encoder's mean; intervals resample the pictures.",
        f"Time: whole samplings ({settings.sampler}, {settings.steps} steps, decoding included) in "
        f"alternation with {subjects[0].model.name}, relative to it; the median of "
        f"{settings.rounds} rounds, and their least and greatest. Machine: {machine()}.",
        "A difference counts where intervals do not overlap. Same size: MACs of a step, parameters "
        f"and latent bytes (float32) less than {SAME_SIZE:.0%} apart.".replace("%", " %"),
    ]
    unsampled = []
    if references.told is None:
        unsampled = [s.model.name for s in subjects if s.model.system().denoiser is None]
    else:
        kind = references.told.conditions.kind
        notes.append(f"Denoisers are told the {kind} of the test pictures, samples in turn.")
    if references.extractor is None:
        notes.append(f"No Fréchet distances: {references.reason}")
    elif not unsampled:
        notes.append(
            f"FD: {settings.num_samples:,} samples of each model against {num_references:,} test "
            f"pictures, and (to unpruned) against {num_decoded:,} reconstructions by "
            f"{subjects[0].model.name}. Distances from other numbers are no match for these."
        )
    notes += [
        f"{name}: no samples for Fréchet distances, its denoiser needs more than latents, a "
        "timestep and what the pictures say."
        for name in unsampled
    ]
    notes += [
        f"{s.model.name} was trained with a gate ({s.gate}); here every channel is open."
        for s in subjects
        if s.gate is not None
    ]
    return notes
