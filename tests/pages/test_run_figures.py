"""Every figure shows the numbers of its runs, legible in size; odd runs do not break it."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shown import (
    curves,
    entries,
    heights,
    lengths,
    numbers_of,
    styled,
    texts,
    titles,
    words_of,
)

from pelap.config.run_folder import RunFolder
from pelap.measure.evaluation_record import MaskHistogram
from pelap.pages import numbers
from pelap.pages import run_figures as figures
from pelap.pages.canvas import DPI, WIDTH, drawing, plain
from pelap.pages.reported_run import ReportedRun, read_runs
from pelap.pages.run_page import draw_charts, draw_samples


@pytest.fixture
def runs(three_runs: list[RunFolder]) -> list[ReportedRun]:
    return read_runs(three_runs)


def with_evaluation(run: ReportedRun, **changes: Any) -> ReportedRun:
    return replace(run, evaluation=replace(run.evaluation, **changes))


def test_every_figure_of_three_runs_is_a_picture(runs: list[ReportedRun]) -> None:
    cards = draw_charts(runs) + draw_samples(runs)

    assert len({card.name for card in cards}) == len(cards)
    for card in cards:
        with Image.open(io.BytesIO(card.image.png)) as image:
            assert image.format == "PNG"
            assert image.size == (card.image.width, card.image.height)
            assert image.width == WIDTH * DPI
            assert image.height > 150
        assert card.alt
        assert card.caption.endswith(".")


def test_three_bars_a_run_show_what_the_denoiser_scores(runs: list[ReportedRun]) -> None:
    figure = styled(lambda: figures.draw_denoiser_and_latent(runs))

    (axes,) = figure.axes
    assert entries(figure) == [
        "with the latent",
        "same denoiser, zeros in the latent's place",
        "best linear predictor for Gaussian latents this size",
    ]
    keys = ("diffusion_loss", "zero_latent_diffusion_loss", "gaussian_diffusion_loss")
    losses = [getattr(run.evaluation, key) for run in runs for key in keys]
    assert lengths(axes) == pytest.approx(losses)
    assert texts(axes)[:4] == ["baseline", "0.0284", "0.0236", "0.00021"]
    assert "pelap-a (λ = 0.01)" in texts(axes)
    assert axes.get_xlabel() == "squared error of the predicted noise (1 = predicting zero)"


def test_training_curves_are_what_the_run_wrote(runs: list[ReportedRun]) -> None:
    figure = styled(lambda: figures.draw_training_curves(runs))

    assert titles(figure) == list(figures.CURVES.values())
    assert entries(figure) == ["baseline", "pelap-a (λ = 0.01)", "no-sparsity (λ = 0)"]
    panels = dict(zip(figures.CURVES, figure.axes, strict=True))
    for name, axes in panels.items():
        drawn = curves(axes)
        for run, train, validation in zip(runs, drawn[::2], drawn[1::2], strict=True):
            for (x, y), lines in ((train, run.train), (validation, run.validation)):
                assert x == [line["epoch"] for line in lines]
                assert y == pytest.approx([float(np.mean(line[name])) for line in lines])
    assert panels["mask_mean"].get_xlabel() == "epoch (bold: validation, thin: training)"
    assert panels["mask_mean"].get_yscale() == "log"


def test_the_baseline_comes_first_among_the_weights(runs: list[ReportedRun]) -> None:
    figure = styled(lambda: figures.draw_sparsity_comparison(runs))

    loss, reconstruction, mask = figure.axes
    assert words_of(mask.get_xticklabels()) == ["baseline", "0", "0.01"]
    assert mask.get_xlabel() == "weight λ of the sparsity loss"
    order = [0, 2, 1]  # places of baseline, λ = 0.01, λ = 0
    ((x, y),) = curves(mask)
    assert (x, y) == (order, [run.mean_mask for run in runs])
    solid, hollow = curves(reconstruction)
    assert solid[0] == pytest.approx([place - 0.09 for place in order])
    assert solid[1] == [run.evaluation.reconstruction_mse_sum for run in runs]
    assert hollow[1] == [run.evaluation.masked_reconstruction_mse_sum for run in runs]
    assert texts(loss) == ["0.0284"] + ["0.0236"] * 5
    for axes, labels in (
        (loss, ["with the latent", "with zeros in its place"]),
        (reconstruction, ["without the mask", "through the mask"]),
    ):
        key = axes.get_legend()
        assert key is not None
        assert words_of(key.get_texts()) == labels


def test_the_same_run_gives_the_same_bytes(runs: list[ReportedRun]) -> None:
    first, second = (drawing(lambda: figures.draw_latent_std(runs)) for _ in range(2))

    assert first.png == second.png


def test_the_report_needs_neither_torch_nor_pyplot() -> None:
    check = (
        "import sys, pelap.pages.run_page, pelap.pages.analysis_page, pelap.pages.tradeoff_page,"
        "pelap.pages.sweep_figure; sys.exit(bool({'matplotlib.pyplot', 'torch'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_heatmap_colour_means_the_same_in_every_run(runs: list[ReportedRun]) -> None:
    dark = with_evaluation(runs[1], mask_mean_by_class={"a": [0.001] * 4, "b": [0.001] * 4})
    bright = with_evaluation(runs[1], mask_mean_by_class={"a": [0.9] * 4, "b": [0.9] * 4})
    for run, value in ((dark, 0.001), (bright, 0.9)):
        axes = styled(lambda run=run: figures.draw_importance_by_class(run)).axes[0]
        (image,) = axes.images
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)
        assert np.asarray(image.norm(np.array([value]))) == pytest.approx(np.cbrt([value]))
        assert numbers_of(axes).tolist() == [[value] * 4] * 2
        assert texts(axes) == [numbers.mask(value)] * 8
        assert words_of(axes.get_yticklabels()) == ["a", "b"]
        assert axes.get_xlabel() == "channel"


def test_heatmap_keeps_the_classes_that_stand_out(runs: list[ReportedRun]) -> None:
    masks = {f"class {index}": [0.5, 0.5] for index in range(100)} | {"odd": [0.9, 0.1]}

    names, values = figures.classes_to_show(with_evaluation(runs[1], mask_mean_by_class=masks))

    assert len(names) == len(values) == figures.MAX_CLASSES
    assert names[-1] == "odd"


@pytest.mark.parametrize("num_channels", [1, 16, 32])
def test_any_number_of_channels(runs: list[ReportedRun], num_channels: int) -> None:
    counts = [[5, 3, 0, 1]] * num_channels
    wide = with_evaluation(
        runs[1],
        mask_mean=[0.3] * num_channels,
        mask_mean_by_class={"a": [0.3] * num_channels, "b": [0.0] * num_channels},
        mask_histogram=MaskHistogram([0, 0.25, 0.5, 0.75, 1], counts),
        latent_std=[1.0] * num_channels,
        masked_latent_std=[0.0] * num_channels,
    )

    histograms = styled(lambda: figures.draw_mask_histograms(wide))
    shown = [axes for axes in histograms.axes if axes.get_visible()]
    assert len(shown) == num_channels
    for channel, axes in enumerate(shown):
        assert heights(axes) == pytest.approx([100 * n / 9 for n in counts[channel]])
        assert f"{channel}: " in axes.get_title(loc="left")
        assert axes.get_xlim() == (0, 1)

    classes = styled(lambda: figures.draw_importance_by_class(wide)).axes[0]
    assert numbers_of(classes).tolist() == [[0.3] * num_channels, [0.0] * num_channels]
    assert len(texts(classes)) == (2 * num_channels if num_channels <= 8 else 0)

    spread = styled(lambda: figures.draw_latent_std([wide]))
    (axes,) = spread.axes
    assert curves(axes, "o") == [([1.0] * num_channels, list(range(num_channels)))]
    assert curves(axes, "s") == [([1e-5] * num_channels, list(range(num_channels)))]
    assert axes.get_xscale() == "log"
    assert entries(spread) == ["before the mask", "after the mask"]


def test_originals_are_repeated_only_where_they_differ(runs: list[ReportedRun]) -> None:
    other = replace(runs[2], pictures={k: v[:, ::2, ::2] for k, v in runs[2].pictures.items()})

    same = titles(styled(lambda: figures.draw_reconstructions(runs)))
    figure = styled(lambda: figures.draw_reconstructions([*runs[:2], other]))
    different = titles(figure)

    assert same.count("original") == 1
    assert len(same) == 1 + 1 + 2 + 2
    assert different.count("original") == 2
    strip = numbers_of(figure.axes[0])
    assert np.array_equal(strip[:, :32], runs[0].pictures["originals"][0])
    assert np.array_equal(strip[:, 33:65], runs[0].pictures["originals"][1])


def test_samples_stand_in_a_grid(runs: list[ReportedRun]) -> None:
    (axes,) = styled(lambda: figures.draw_samples(runs[0])).axes

    grid, samples = numbers_of(axes), runs[0].pictures["samples"]
    assert grid.shape == (4 * 33 - 1, 4 * 33 - 1, 3)
    assert np.array_equal(grid[33:65, :32], samples[4])


def test_nothing_but_figures_with_content(runs: list[ReportedRun]) -> None:
    bare = replace(with_evaluation(runs[1], mask_mean_by_class={}), train=[], validation=[])

    names = [card.name for card in draw_charts([bare])]

    assert names == [
        "denoiser_and_latent", "mask_histograms_1_pelap-a", "latent_std", "reconstructions",
    ]  # fmt: skip


def test_hostile_names_are_drawn_letter_by_letter(runs: list[ReportedRun]) -> None:
    hostile = [
        replace(run, label=label)
        for run, label in zip(runs, [r"_$\bad{$", "猫\n🐈", "x" * 90], strict=True)
    ]
    hostile[1] = with_evaluation(
        hostile[1], mask_mean_by_class={"$x^": [0.1] * 4, "_犬": [0.2] * 4}
    )

    for card in draw_charts(hostile):
        assert card.image.png.startswith(b"\x89PNG")
        assert set(card.name) <= set("abcdefghijklmnopqrstuvwxyz_-0123456789")


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("run", "run"),
        ("$a$", r"\$a\$"),
        ("_x", " _x"),
        ("猫", "?"),
        ("a\nb", "a?b"),
        ("λ ü", "λ ü"),
    ],
)
def test_plain(text: str, drawn: str) -> None:
    assert plain(text) == drawn


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (numbers.loss, 0.02361, "0.0236"),
        (numbers.loss, 0.024, "0.0240"),
        (numbers.loss, 0.00021, "0.00021"),
        (numbers.loss, 3e-7, "<0.0001"),
        (numbers.loss, float("nan"), "–"),
        (numbers.mask, 1.0, "1"),
        (numbers.mask, 0.9526, "0.953"),
        (numbers.mask, 0.00398, "0.0040"),
        (numbers.mask, 0.0, "0"),
        (numbers.mask, None, "–"),
        (numbers.squared_error, 24.67, "24.67"),
        (numbers.squared_error, 1687.4, "1,687"),
        (numbers.decibel, 27.13, "27.1 dB"),
        (numbers.decibel, float("inf"), "∞"),
        (numbers.times, 70.4, "70 times"),
        (numbers.percent, 0.034, "3.4 %"),
        (numbers.percent, 0.53, "53 %"),
    ],
)
def test_numbers(form: Callable[[float | None], str], value: float | None, text: str) -> None:
    assert form(value) == text


def test_metrics_without_a_term_leave_its_panel_empty(three_runs: list[RunFolder]) -> None:
    baseline = three_runs[0]
    lines = [json.loads(line) for line in baseline.metrics_path.read_text().splitlines()]
    for line in lines:
        del line["kl_loss"]
    baseline.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    figure = styled(lambda: figures.draw_training_curves(read_runs([baseline])))

    empty = [axes.get_title(loc="left") for axes in figure.axes if not axes.lines]
    assert empty == ["KL"]
