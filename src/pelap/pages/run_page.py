"""The page about one or several evaluated runs: what its sections hold."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pelap.config.run_checks import settings_without_effect
from pelap.config.run_config import to_dict
from pelap.config.run_folder import RunFolder
from pelap.pages import diagnosis_figures, numbers
from pelap.pages import run_figures as figures
from pelap.pages import run_words as words
from pelap.pages.page import Card, Items, Part, PartGroup, Section, Text, draw_card, write_page
from pelap.pages.reported_run import ReportedRun, read_runs
from pelap.pages.run_table import differing_settings, results_table, versions_table


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
    splits = " and ".join(dict.fromkeys(run.evaluation.split for run in reported))
    measured = (
        f"Measured on the {splits} split. Reconstruction error is the squared error summed over a "
        "picture's values, images in [−1, 1]; diffusion loss is the squared error of the predicted "
        "noise. The last two columns are what the paper reports (arXiv 2606.23086): its full-size "
        "networks, CIFAR-10, 100 epochs, one seed, validation pictures. Compare with them only "
        "what was trained alike."
    )
    verdicts = [
        PartGroup(
            run.title,
            [Text(run.verdict, f"verdict {run.verdict}"), Items(run.evaluation.collapse.reasons)],
        )
        for run in reported
    ]
    return write_page(
        output / "report.html",
        "report",
        ", ".join(run.label for run in reported),
        [Text(words.summary(reported), "lead")],
        [
            Section("Results", [results_table(reported), Text(measured, "note")]),
            Section("Verdict", verdicts),
            Section("Figures", draw_charts(reported)),
            Section("Samples", draw_samples(reported)),
            Section("Settings", _settings(reported)),
            Section("Made with", [versions_table(reported)]),
        ],
    )


def _settings(runs: Sequence[ReportedRun]) -> list[Part]:
    table = differing_settings(runs)
    parts: list[Part] = [] if table is None else [Text("Where the runs differ:"), table]
    for run in runs:
        config = json.dumps(to_dict(run.config), indent=2, ensure_ascii=False)
        parts.append(PartGroup(f"All settings of {run.label}", [Text(config, "json")], folded=True))
        parts += [
            Text(f"{run.label}: {line}", "note") for line in settings_without_effect(run.config)
        ]
    return parts


def draw_charts(runs: Sequence[ReportedRun]) -> list[Card]:
    """Every figure but the samples, those left out for which these runs hold nothing."""
    gated = [(number, run) for number, run in enumerate(runs, 1) if run.has_gate]
    cards = [
        draw_card(
            "denoiser_and_latent",
            "Does the denoiser see the latent?",
            words.denoiser_caption(runs),
            " ".join(f"{run.label}: {words.denoiser_sentence(run)}" for run in runs),
            lambda: figures.draw_denoiser_and_latent(runs),
        ),
        *_diagnosis_cards(runs),
    ]
    if len({run.sparsity_weight for _, run in gated}) > 1:
        masks = "; ".join(f"{run.title} {numbers.mask(run.mean_mask)}" for run in runs)
        sparsity = draw_card(
            "sparsity_weight",
            "What the weight λ changes",
            "From left to right the sparsity loss weighs more; if λ were what closes the mask, the "
            "mask would stay open at λ = 0. Other settings may differ too: see the table of "
            "settings.",
            f"Losses and mean mask against λ. Mean mask: {masks}.",
            lambda: figures.draw_sparsity_comparison(runs),
        )
        cards.append(sparsity)
    if any(run.train or run.validation for run in runs):
        curves = draw_card(
            "training_curves",
            "Training",
            "A diffusion loss that falls together with the mask, or with the latents' size below, "
            "is a task that got easier, not a denoiser that got better.",
            f"Curves of the losses and the mean mask of {', '.join(run.label for run in runs)}.",
            lambda: figures.draw_training_curves(runs),
        )
        cards.append(curves)
    return [*cards, *_mask_cards(gated), *_latent_cards(runs)]


def draw_samples(runs: Sequence[ReportedRun]) -> list[Card]:
    """A grid of samples for each run."""
    return [
        draw_card(
            _numbered("samples", number, run),
            f"Samples of {run.label}",
            words.samples_caption(run),
            f"Grid of pictures sampled from {run.title}.",
            lambda run=run: figures.draw_samples(run),
        )
        for number, run in enumerate(runs, 1)
        if len(run.pictures["samples"])
    ]


def _numbered(kind: str, number: int, run: ReportedRun) -> str:
    """A file name that is safe everywhere: `samples_2_my-run`."""
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", run.label).strip("-")[:40]
    return f"{kind}_{number}_{slug}" if slug else f"{kind}_{number}"


def _diagnosis_cards(runs: Sequence[ReportedRun]) -> list[Card]:
    diagnoses = {run.label: run.diagnosis for run in runs if run.diagnosis is not None}
    if not diagnoses:
        return []
    names = ", ".join(diagnoses)
    return [
        draw_card(
            "denoiser_by_timestep",
            "At which noise levels does the denoiser work?",
            words.timesteps_caption(diagnoses),
            f"The denoiser's loss against the timestep of {names}.",
            lambda: diagnosis_figures.plot_denoisers(diagnoses),
        ),
        draw_card(
            "recovered_latent",
            "How much of the latent the denoiser recovers",
            words.recovery_caption(diagnoses),
            f"Error of the recovered latent against the signal-to-noise ratio of {names}.",
            lambda: diagnosis_figures.plot_recovery(diagnoses),
        ),
        draw_card(
            "latent_channels",
            "Channel by channel",
            "A channel whose bar is gone after the mask never reaches the denoiser.",
            f"Bars of standard deviation and mask of each channel of {names}.",
            lambda: diagnosis_figures.plot_channels(diagnoses),
        ),
    ]


def _mask_cards(gated: Sequence[tuple[int, ReportedRun]]) -> list[Card]:
    """Every gated run's masks by class, then its masks over the pictures."""
    by_class, histograms = [], []
    for number, run in gated:
        means = numbers.per_channel(run.evaluation.mask_mean)
        num_classes, most = len(run.evaluation.mask_mean_by_class), figures.MAX_CLASSES
        limit = f" Shown are the {most} of {num_classes} classes furthest from the mean."
        if num_classes:
            card = draw_card(
                _numbered("importance_by_class", number, run),
                f"Mask by class: {run.title}",
                "If classes needed different channels, the rows would differ; the colours run from "
                "0 to 1 on the same cube-root scale for every run."
                f"{limit if num_classes > most else ''}",
                f"Mean mask of each class and channel in {run.label}; over all classes: {means}.",
                lambda run=run: figures.draw_importance_by_class(run),
            )
            by_class.append(card)
        card = draw_card(
            _numbered("mask_histograms", number, run),
            f"Masks over the pictures: {run.title}",
            "A mask that adapts to the picture shows as a wide histogram; a single bar is the same "
            "mask for every picture.",
            f"Histograms of each channel's mask in {run.label}; means {means}.",
            lambda run=run: figures.draw_mask_histograms(run),
        )
        histograms.append(card)
    return by_class + histograms


def _latent_cards(runs: Sequence[ReportedRun]) -> list[Card]:
    errors = []
    for run in runs:
        error = numbers.squared_error(run.evaluation.reconstruction_mse_sum)
        masked = numbers.squared_error(run.evaluation.masked_reconstruction_mse_sum)
        through = f" without and {masked} through the mask" if run.has_gate else ""
        errors.append(f"{run.label} {error}{through}")
    stds = "; ".join(f"{run.label} {words.widest(run)}" for run in runs)
    caption = "Compare each row with the originals above it"
    if any(run.has_gate for run in runs):
        caption += (
            "; a row through the mask shows what the latents given to the denoiser still hold for "
            "this decoder"
        )
    return [
        draw_card(
            "latent_std",
            "How large the latents are",
            "Far left of the dashed line a channel drowns in the noise, and the denoiser has "
            "little to find.",
            f"Standard deviation of each latent channel; the largest after the mask: {stds}.",
            lambda: figures.draw_latent_std(runs),
        ),
        draw_card(
            "reconstructions",
            "Reconstructions",
            f"{caption}.",
            "Test pictures and their reconstructions. Squared error a picture: "
            f"{'; '.join(errors)}.",
            lambda: figures.draw_reconstructions(runs),
        ),
    ]
