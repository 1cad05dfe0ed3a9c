"""`pelap report MODEL MODEL …`: measure each model once, then draw them all."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pelap.commands.compare_measure import TradeoffSettings, fingerprint, measure_model
from pelap.commands.compare_subjects import Subject, open_subjects
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import write_whole
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError
from pelap.measure.machine import machine, versions
from pelap.measure.model_quality import References, make_references
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import describe_pictures, pictures_config
from pelap.report.tradeoff_page import PAGE, find, write_tradeoff
from pelap.report.tradeoff_words import SAME_SIZE

RESULT, MEASURED = "tradeoff.json", "measured"


def tradeoff(
    paths: Sequence[str | Path],
    output: Path,
    settings: TradeoffSettings | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure every model and write tradeoff.html, tradeoff.json and figures/ into `output`.

    What has been measured stays in output/measured/, so that the same command goes on.

    Args:
        paths: Models; at least one is unpruned, and one pruned at random. A run gives the pictures.
        output: Folder, made if need be.
        settings: How much to measure.
        overrides: Settings such as --data.source, as on the command line.

    Returns:
        What tradeoff.json holds.

    Raises:
        ConfigError: If a setting is wrong, or an unpruned or a random model is missing.
        ModelError: If a model cannot be opened, or has no denoiser.
        DataError: If the pictures cannot be read.
    """
    settings = settings or TradeoffSettings()
    settings.check()
    if output.is_file():
        raise ConfigError(f"--output {output} is a file: give a folder.")
    subjects = open_subjects(paths)
    unpruned = subjects[0].model
    giver = next((s.model for s in subjects if s.model.config is not None), unpruned)
    config = pictures_config(giver, overrides)
    references = make_references(unpruned, config, settings, torch_device())
    measured = [
        _measure_once(subject.model, unpruned, config, settings, references, output / MEASURED)
        for subject in subjects
    ]
    points = [s.point(found) for s, found in zip(subjects, measured, strict=True)]
    notes = _notes(subjects, config, settings, references)
    result = {
        "models": [
            {**asdict(point), "measured": found}
            for point, found in zip(points, measured, strict=True)
        ],
        "findings": asdict(find(points, points[0])),
        "notes": notes,
        "settings": asdict(settings),
        "machine": machine(),
        "versions": versions(),
    }
    write_tradeoff(points, notes, output)
    write_whole(output / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    return result


def describe_tradeoff(result: dict[str, Any], output: Path) -> str:
    """The findings, then where the page is."""
    found = result["findings"]
    return "\n".join([found["lead"], *found["sentences"], str(output / PAGE)])


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
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _notes(
    subjects: Sequence[Subject],
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
