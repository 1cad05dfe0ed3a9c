"""Any autoencoder with a denoiser in; diagnosis.json and figures out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pelap.commands.any_model import AnyModel, AnyPictures, as_model, as_pictures, told_nothing
from pelap.commands.diagnose import DiagnoseSettings
from pelap.commands.verb_settings import JsonResult, is_model
from pelap.config.prompts import PromptPictures
from pelap.config.run_checks import load_config
from pelap.config.run_config import DataConfig, NetworkConfig, RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.devices import torch_device
from pelap.core.errors import ConfigError, RunError, in_one_line
from pelap.core.files import write_whole
from pelap.core.json_values import JsonObject
from pelap.core.output import locked
from pelap.core.records import from_json_dict, to_json, to_json_dict
from pelap.core.seeding import generator
from pelap.data.load import load_pictures
from pelap.data.pictures import Pictures, Splits, to_batch
from pelap.families.conditioned import Told, tell_classes
from pelap.measure import noise_levels
from pelap.measure.diagnosis_record import DiagnosedPictures, Diagnosis
from pelap.measure.foreign_denoiser import open_foreign
from pelap.measure.machine import versions
from pelap.method.borrowing import meet_budget
from pelap.method.pipeline import LatentDiffusionPipeline, load_pipeline, to_system
from pelap.method.system import LatentDiffusion
from pelap.models.conditions import NONE, check_told, find_conditions, wants_condition
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import picture_size
from pelap.models.opening import open_model
from pelap.models.unconditional import without_condition
from pelap.pages import numbers
from pelap.pages.diagnosis_figures import draw_all


@dataclass(frozen=True)
class Diagnosable:
    """A model that can be diagnosed."""

    name: str
    system: LatentDiffusion
    config: RunConfig
    """Of the run; for a model without one, defaults with the size that it was made for."""
    is_run_config: bool
    """Whether the config says which pictures belong to the model."""
    run: RunFolder | None
    """Where the diagnosis is kept; None for a model that is no run of ours."""
    untold: LoadedModel | None = None
    """A model whose denoiser is still to be told the pictures' captions or classes."""


class DiagnosisResult(JsonResult):
    """What `diagnose` measured, as diagnosis.json holds it."""

    def describe(self) -> str:
        """Verdict, noise levels, recovery of latents, and channels."""
        result = self.values
        collapse = result["collapse"]
        lines = [f"{'verdict':10} {collapse['verdict']}"]
        lines += [f"{'':10} {reason}" for reason in [*collapse["reasons"], *result["notes"]]]
        lines += ["", "noise loss at   SNR dB   latents     zeros   best linear"]
        for level in _some(result["levels"]):
            losses = (
                level["diffusion_loss"],
                level["zero_latent_diffusion_loss"],
                level["gaussian_diffusion_loss"],
            )
            ratio = "–" if level["snr_db"] is None else f"{level['snr_db']:.1f}"
            first, second, third = map(numbers.loss, losses)
            lines.append(
                f"t = {level['timestep']:<9} {ratio:>7} {first:>9} {second:>9} {third:>13}"
            )
        lines += ["", "latent recovered at   error / variance   1 / (1 + SNR)"]
        for point in result["recovery"]:
            error = point["relative_error"]
            shown = "–" if error is None else f"{error:.3f}"
            linear = point["linear_relative_error"]
            lines.append(f"{point['snr_db']:>4g} dB {shown:>29} {linear:>15.3f}")
        lines += ["", "channel      std   masked std   mean mask"]
        rows = zip(
            result["latent_std"], result["masked_latent_std"], result["mask_mean"], strict=True
        )
        for channel, (std, masked, mask) in enumerate(rows):
            lines.append(f"{channel:<7} {std:>8.4f} {masked:>12.4f} {mask:>11.4f}")
        plain, through = result["reconstruction_psnr_db"], result["masked_reconstruction_psnr_db"]
        lines += ["", f"decoded at {plain:.2f} dB, through the mask at {through:.2f} dB"]
        return "\n".join(lines)

    def figure(self) -> bytes | None:
        """Noise loss by noise level."""
        name = self.values["model"]
        return next(iter(draw_all({name: from_json_dict(Diagnosis, self.values, name)}).values()))


def diagnose(
    model: AnyModel,
    pictures: AnyPictures = None,
    *,
    num_pictures: int = DiagnoseSettings.num_pictures,
    output: str | Path | None = None,
    unconditional: bool = False,
) -> DiagnosisResult:
    """Find at which noise levels a denoiser works, and whether the model is healthy.

        pelap.diagnose("runs/first", num_pictures=64).values["collapse"]["verdict"]

    Args:
        model: A run, or any model whose denoiser can be run on latents.
        pictures: A run's own by default; their test split is used.
        num_pictures: At most so many.
        output: Folder for diagnosis.json and figures/; a run's own by default, else none.
        unconditional: Run a denoiser that wants text or a class on an empty prompt, or on none.

    Returns:
        Losses (mean squared errors) by noise level (signal-to-noise ratio in dB), and the verdict.

    Raises:
        ConfigError: If the model cannot take such pictures, or none are named.
        RunError: If there is no model, or it has no denoiser that can be run.
        DataError: If the pictures cannot be read.
    """
    if isinstance(model, str | Path) and not isinstance(pictures, PromptPictures):
        opened = load_diagnosable(model, unconditional=unconditional)
        if pictures is None and not opened.is_run_config:
            raise ConfigError(f"{opened.name} names no pictures: give pictures=pelap.pictures(…).")
        config = opened.config
        if pictures is not None:
            config = pictures if isinstance(pictures, RunConfig) else replace(config, data=pictures)
    else:
        loaded = as_model(model)
        config = as_pictures(loaded, pictures)
        if unconditional:
            loaded = told_nothing(loaded, config)
        opened = _of_model(loaded, config, is_run_config=True)
    folder = None if output is None else Path(output)
    return DiagnosisResult(diagnose_model(opened, config, num_pictures=num_pictures, output=folder))


def load_diagnosable(path: Path | str, *, unconditional: bool = False) -> Diagnosable:
    """Load a run, the model folder of one, a diffusers folder (see `open_foreign`) or a hub id.

    Args:
        path: Of the folder, or the id.
        unconditional: Run a conditional denoiser without its condition, see `without_condition`.

    Raises:
        RunError: If there is none, or it is of a kind that cannot be diagnosed. One line.
        ModelError: If its condition cannot be left out.
    """
    if not Path(path).exists() and is_model(path):
        return _of_foreign(open_model(path), unconditional)
    path = Path(path)
    if (path / "model_index.json").is_file():
        return _load_folder(path, unconditional)
    if not (path / "config.json").is_file():
        raise RunError(
            f"No model at {path}: give a run folder, or a diffusers folder with model_index.json."
        )
    run = RunFolder(path)
    config = run.config()
    return Diagnosable(run.name, to_system(load_pipeline(run.model), config), config, True, run)


def _load_folder(path: Path, unconditional: bool) -> Diagnosable:
    name = path.resolve().name
    if _pipeline_class(path) != LatentDiffusionPipeline.__name__:
        return _of_foreign(open_model(path) if unconditional else open_foreign(path), unconditional)
    of_run = path.resolve().parent / "config.json"
    pipeline = load_pipeline(path)
    if of_run.is_file():
        config = load_config(of_run)
        return Diagnosable(name, to_system(pipeline, config), config, True, None)
    if pipeline.importance is not None or pipeline.gate is not None:
        raise RunError(
            f"{path} has a gate, and only its run's config.json says where the mask acts: "
            "keep that in the folder above."
        )
    channels = pipeline.autoencoder.config["latent_channels"]
    config = RunConfig(network=NetworkConfig(latent_channels=channels))
    return Diagnosable(name, to_system(pipeline, config), config, False, None)


def _of_foreign(model: LoadedModel, unconditional: bool) -> Diagnosable:
    size = picture_size(model)
    if unconditional:
        model = without_condition(model, size)
    network = NetworkConfig(latent_channels=model.num_channels)
    return _of_model(model, RunConfig(data=DataConfig(size=size), network=network))


def _of_model(model: LoadedModel, config: RunConfig, is_run_config: bool = False) -> Diagnosable:
    system, untold = model.measured_system(), model if wants_condition(model) else None
    if system.denoiser is None and untold is None:
        raise RunError(f"{model.folder or model.name} has no denoiser that can be run.")
    return Diagnosable(model.name, system, config, is_run_config, None, untold)


def _pipeline_class(path: Path) -> str | None:
    try:
        return json.loads((path / "model_index.json").read_text())["_class_name"]
    except (ValueError, KeyError, TypeError):
        return None


def diagnose_model(
    model: Diagnosable,
    config: RunConfig | None = None,
    *,
    num_pictures: int = DiagnoseSettings.num_pictures,
    output: Path | None = None,
) -> JsonObject:
    """Diagnose a model on pictures of the test split; the same call gives the same numbers.

    Args:
        model: From `load_diagnosable`.
        config: The model's own by default; its data, its evaluation and, for a nested gate, its
            budget are used.
        num_pictures: Drawn from the test split by the evaluation's seed; fewer if there are fewer.
        output: Folder for diagnosis.json and figures/; a run's own by default, else none.

    Returns:
        What diagnosis.json holds.

    Raises:
        ConfigError: If the model cannot take pictures of that size, or the budget cannot be met.
        DataError: If the pictures cannot be read.
        RunError: If another command writes to that folder.
    """
    if num_pictures < 1:
        raise ConfigError(f"--num-pictures is {num_pictures}: it must be at least 1.")
    folder = output or (model.run.path if model.run else None)
    with locked(folder):
        diagnosis = _diagnose(model, config or model.config, num_pictures)
        if folder is not None:
            (folder / "figures").mkdir(parents=True, exist_ok=True)
            for name, png in draw_all({model.name: diagnosis}).items():
                write_whole(folder / "figures" / f"{name}.png", png)
            write_whole(RunFolder(folder).diagnosis_path, to_json(diagnosis, indent=2).encode())
    return to_json_dict(diagnosis)


def _diagnose(model: Diagnosable, config: RunConfig, num_pictures: int) -> Diagnosis:
    splits, drawn = _draw_pictures(config, num_pictures)
    system, conditions = model.system, None
    if model.untold is not None:
        check_told(model.untold, splits)
        size = config.data.size
        told, found = find_conditions(model.untold, splits, size, train=NONE, test=drawn)
        system, conditions = told.measured_system(), found and found[1]
        if system.denoiser is None:
            raise RunError(f"{model.name} has no denoiser that can be run.")
    system = system.to(torch_device()).eval()
    system.options = config.objective
    meet_budget(system, config.gate.budget, model.config.gate.budget)
    batches = _Batches(splits.test, drawn.split(config.evaluation.batch_size))
    _try_one(system, batches, config.data.size)

    def tell(number: int) -> Told | None:
        part = batches.parts[number]
        if conditions is not None:
            return conditions.tell(part)
        return tell_classes(system.denoiser, splits.test.labels[part].to(torch_device()))

    diagnosis = noise_levels.diagnose(system, batches, seed=config.evaluation.seed, tell=tell)
    data = config.data
    return replace(
        diagnosis,
        model=model.name,
        split="test",
        data=DiagnosedPictures(data.source, data.path, data.size),
        seed=config.evaluation.seed,
        versions=versions(),
    )


@dataclass(frozen=True)
class _Batches:
    """Images in [-1, 1], decoded again at each pass."""

    pictures: Pictures
    parts: tuple[Tensor, ...]

    def __iter__(self) -> Iterator[Tensor]:
        for indices in self.parts:
            yield to_batch(self.pictures.fetch(indices), "cpu")


def _draw_pictures(config: RunConfig, num_pictures: int) -> tuple[Splits, Tensor]:
    """The pictures, and which of the test split are drawn, int64."""
    # Neither the training pictures nor all of the test pictures are needed: decode none ahead.
    data = replace(config.data, num_train=1, memory_gb=1e-9)
    splits = load_pictures(data, config.run.seed)
    source = generator(config.evaluation.seed, "order")
    order = torch.randperm(len(splits.test), generator=source)
    return splits, order[:num_pictures].sort().values


@torch.no_grad()
def _try_one(system: LatentDiffusion, batches: _Batches, size: int) -> None:
    image = next(iter(batches))[:1].to(next(system.parameters()).device)
    try:
        latents = system.encode_moments(image).chunk(2, dim=1)[0]
        system.predict_noise(latents, torch.zeros(1, dtype=torch.long, device=latents.device))
        system.decode(latents)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--data.size is {size}: this model cannot take such pictures "
            f"({in_one_line(error, 1000)})."
        ) from error


def _some(levels: list[JsonObject], most: int = 8) -> list[JsonObject]:
    """Evenly spread, the first and the last among them."""
    places = np.linspace(0, len(levels) - 1, min(most, len(levels))).round().astype(int)
    return [levels[place] for place in places]
