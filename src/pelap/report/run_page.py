"""One self-contained HTML page for one or several evaluated runs."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

import pelap
from pelap.config.run_config import settings_without_effect, to_dict
from pelap.config.run_folder import RunFolder, write_whole
from pelap.report import diagnosis_figures, numbers
from pelap.report import picture_grids as grids
from pelap.report import run_figures as figures
from pelap.report import run_words as words
from pelap.report.canvas import DPI, Drawing, drawing
from pelap.report.reported_run import ReportedRun, read_runs
from pelap.report.run_table import differing_settings, results_table, versions_table


@dataclass(frozen=True)
class Card:
    """A figure on the page, and as a file."""

    name: str
    """File name without ending."""
    title: str
    caption: str
    alt: str
    image: Drawing

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.image.png).decode("ascii")

    @property
    def width(self) -> int:
        """CSS pixels at which the figure's type has its own size."""
        return round(self.image.width * 96 / DPI)

    @property
    def height(self) -> int:
        return round(self.image.height * 96 / DPI)


def write_report(runs: Sequence[RunFolder], output: Path) -> Path:
    """Write output/report.html (self-contained) and output/figures/*.png.

    Everything is read and drawn before the first file is written, and each file appears whole.

    Args:
        runs: One or several evaluated runs, in the order in which to show them.
        output: Folder, made if need be; a run's own folder for a report of that run.

    Returns:
        Path of the page.

    Raises:
        RunError: If there is no run, or one is not evaluated, incomplete or damaged.
    """
    reported = read_runs(runs)
    charts, samples = draw_charts(reported), draw_samples(reported)
    page = _render(reported, charts, samples)
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for card in (*charts, *samples):
        write_whole(folder / f"{card.name}.png", card.image.png)
    write_whole(output / "report.html", page.encode())
    return output / "report.html"


def draw_charts(runs: Sequence[ReportedRun]) -> list[Card]:
    """Every figure but the samples, those left out for which these runs hold nothing."""
    gated = [(number, run) for number, run in enumerate(runs, 1) if run.has_gate]
    cards = [_denoiser_card(runs), *_diagnosis_cards(runs)]
    if len({run.sparsity_weight for _, run in gated}) > 1:
        cards.append(_sparsity_card(runs))
    if any(run.train or run.validation for run in runs):
        cards.append(_curves_card(runs))
    cards += [
        _class_card(number, run) for number, run in gated if run.evaluation["mask_mean_by_class"]
    ]
    cards += [_histogram_card(number, run) for number, run in gated]
    return [*cards, _std_card(runs), _reconstruction_card(runs)]


def draw_samples(runs: Sequence[ReportedRun]) -> list[Card]:
    """A grid of samples for each run."""
    return [
        _card(
            _numbered("samples", number, run),
            f"Samples of {run.label}",
            words.samples_caption(run),
            f"Grid of pictures sampled from {run.title}.",
            lambda run=run: grids.draw_samples(run),
        )
        for number, run in enumerate(runs, 1)
        if len(run.pictures["samples"])
    ]


def _card(name: str, title: str, caption: str, alt: str, draw: Callable[[], Figure]) -> Card:
    return Card(name, title, caption, alt, drawing(draw))


def _numbered(kind: str, number: int, run: ReportedRun) -> str:
    """A file name that is safe everywhere: `samples_2_my-run`."""
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", run.label).strip("-")[:40]
    return f"{kind}_{number}_{slug}" if slug else f"{kind}_{number}"


def _denoiser_card(runs: Sequence[ReportedRun]) -> Card:
    return _card(
        "denoiser_and_latent",
        "Does the denoiser see the latent?",
        words.denoiser_caption(runs),
        " ".join(f"{run.label}: {words.denoiser_sentence(run)}" for run in runs),
        lambda: figures.draw_denoiser_and_latent(runs),
    )


def _diagnosis_cards(runs: Sequence[ReportedRun]) -> list[Card]:
    found = {run.label: run.diagnosis for run in runs if run.diagnosis is not None}
    if not found:
        return []
    return [
        _card(
            "denoiser_by_timestep",
            "At which noise levels does the denoiser work?",
            words.timesteps_caption(found),
            f"The denoiser's loss against the timestep of {', '.join(found)}.",
            lambda: diagnosis_figures.plot_denoisers(found),
        ),
        _card(
            "recovered_latent",
            "How much of the latent the denoiser recovers",
            words.recovery_caption(found),
            f"Error of the recovered latent against the signal-to-noise ratio of "
            f"{', '.join(found)}.",
            lambda: diagnosis_figures.plot_recovery(found),
        ),
        _card(
            "latent_channels",
            "Channel by channel",
            "A channel whose bar is gone after the mask never reaches the denoiser.",
            f"Bars of standard deviation and mask of each channel of {', '.join(found)}.",
            lambda: diagnosis_figures.plot_channels(found),
        ),
    ]


def _sparsity_card(runs: Sequence[ReportedRun]) -> Card:
    masks = "; ".join(f"{run.title} {numbers.mask(run.mean_mask)}" for run in runs)
    return _card(
        "sparsity_weight",
        "What the weight λ changes",
        "From left to right the sparsity loss weighs more; if λ were what closes the mask, the "
        "mask would stay open at λ = 0. Other settings may differ too: see the table of settings.",
        f"Losses and mean mask against λ. Mean mask: {masks}.",
        lambda: figures.draw_sparsity_comparison(runs),
    )


def _curves_card(runs: Sequence[ReportedRun]) -> Card:
    return _card(
        "training_curves",
        "Training",
        "A diffusion loss that falls together with the mask, or with the latents' size below, is a "
        "task that got easier, not a denoiser that got better.",
        f"Curves of the losses and the mean mask of {', '.join(run.label for run in runs)}.",
        lambda: figures.draw_training_curves(runs),
    )


def _class_card(number: int, run: ReportedRun) -> Card:
    num_classes = len(run.evaluation["mask_mean_by_class"])
    limit = (
        f" Shown are the {figures.MAX_CLASSES} of {num_classes} classes furthest from the mean."
        if num_classes > figures.MAX_CLASSES
        else ""
    )
    return _card(
        _numbered("importance_by_class", number, run),
        f"Mask by class: {run.title}",
        "If classes needed different channels, the rows would differ; the colours run from 0 to 1 "
        f"on the same cube-root scale for every run.{limit}",
        f"Mean mask of each class and channel in {run.label}; over all classes: "
        f"{numbers.per_channel(run.mask_mean)}.",
        lambda: figures.draw_importance_by_class(run),
    )


def _histogram_card(number: int, run: ReportedRun) -> Card:
    return _card(
        _numbered("mask_histograms", number, run),
        f"Masks over the pictures: {run.title}",
        "A mask that adapts to the picture shows as a wide histogram; a single bar is the same "
        "mask for every picture.",
        f"Histograms of each channel's mask in {run.label}; means "
        f"{numbers.per_channel(run.mask_mean)}.",
        lambda: figures.draw_mask_histograms(run),
    )


def _std_card(runs: Sequence[ReportedRun]) -> Card:
    widest = "; ".join(
        f"{run.label} {numbers.significant(max(run.evaluation['masked_latent_std']), 2)}"
        for run in runs
    )
    return _card(
        "latent_std",
        "How large the latents are",
        "Far left of the dashed line a channel drowns in the noise, and the denoiser has little to "
        "find.",
        f"Standard deviation of each latent channel; the largest after the mask: {widest}.",
        lambda: figures.draw_latent_std(runs),
    )


def _reconstruction_card(runs: Sequence[ReportedRun]) -> Card:
    errors = "; ".join(f"{run.label} {_errors(run)}" for run in runs)
    return _card(
        "reconstructions",
        "Reconstructions",
        "Compare each row with the originals above it; a row through the mask shows what the "
        "latents given to the denoiser still hold for this decoder."
        if any(run.has_gate for run in runs)
        else "Compare each row with the originals above it.",
        f"Test pictures and their reconstructions. Squared error a picture: {errors}.",
        lambda: grids.draw_reconstructions(runs),
    )


def _errors(run: ReportedRun) -> str:
    plain = numbers.squared_error(run.evaluation["reconstruction_mse_sum"])
    if not run.has_gate:
        return plain
    masked = numbers.squared_error(run.evaluation["masked_reconstruction_mse_sum"])
    return f"{plain} without and {masked} through the mask"


def _render(runs: Sequence[ReportedRun], charts: list[Card], samples: list[Card]) -> str:
    return render(
        "page.html.j2",
        runs=runs,
        title=", ".join(run.label for run in runs),
        summary=words.summary(runs),
        results=results_table(runs),
        splits=" and ".join(dict.fromkeys(str(run.evaluation["split"]) for run in runs)),
        charts=charts,
        samples=samples,
        settings=differing_settings(runs) if len(runs) > 1 else None,
        configs=[json.dumps(to_dict(run.config), indent=2, ensure_ascii=False) for run in runs],
        ignored=[settings_without_effect(run.config) for run in runs],
        versions=versions_table(runs),
        pelap_version=pelap.__version__,
    )


def render(template: str, **values: Any) -> str:
    """A page from one of this folder's templates; everything in it is escaped."""
    environment = Environment(
        loader=PackageLoader("pelap.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(**values)
