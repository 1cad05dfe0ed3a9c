"""Every figure is drawn, legible in size, and shows something; odd runs do not break it."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pelap.config.run_folder import RunFolder
from pelap.report import numbers
from pelap.report import picture_grids as grids
from pelap.report import run_figures as figures
from pelap.report.canvas import DPI, WIDTH, drawing, plain
from pelap.report.reported_run import ReportedRun, read_runs
from pelap.report.run_page import draw_charts, draw_samples


def pixels(draw: Callable[[], Figure]) -> np.ndarray:
    with Image.open(io.BytesIO(drawing(draw).png)) as image:
        return np.asarray(image.convert("L"))


@pytest.fixture
def runs(three_runs: list[RunFolder]) -> list[ReportedRun]:
    return read_runs(three_runs)


def with_evaluation(run: ReportedRun, **changes: object) -> ReportedRun:
    return replace(run, evaluation=run.evaluation | changes)


def test_every_figure_of_three_runs_is_a_picture(runs: list[ReportedRun]) -> None:
    cards = draw_charts(runs) + draw_samples(runs)

    assert len({card.name for card in cards}) == len(cards)
    for card in cards:
        with Image.open(io.BytesIO(card.image.png)) as image:
            assert image.format == "PNG"
            assert image.size == (card.image.width, card.image.height)
            assert image.width == WIDTH * DPI
            assert image.height > 150
            assert np.asarray(image.convert("L")).std() > 5
        assert card.alt
        assert card.caption.endswith(".")


def test_the_same_run_gives_the_same_bytes(runs: list[ReportedRun]) -> None:
    first, second = (drawing(lambda: figures.draw_latent_std(runs)) for _ in range(2))

    assert first.png == second.png


def test_figures_need_no_pyplot() -> None:
    check = "import sys, pelap.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_heatmap_colour_means_the_same_in_every_run(runs: list[ReportedRun]) -> None:
    dark = with_evaluation(runs[1], mask_mean_by_class={"a": [0.001] * 4, "b": [0.001] * 4})
    bright = with_evaluation(runs[1], mask_mean_by_class={"a": [0.9] * 4, "b": [0.9] * 4})
    middle = {
        name: pixels(lambda run=run: figures.draw_importance_by_class(run))[60:90, 300:310].mean()
        for name, run in {"dark": dark, "bright": bright}.items()
    }

    assert middle["dark"] < 80 < 150 < middle["bright"]


def test_heatmap_keeps_the_classes_that_stand_out() -> None:
    masks = {f"class {index}": [0.5, 0.5] for index in range(100)} | {"odd": [0.9, 0.1]}
    run = object.__new__(ReportedRun)
    object.__setattr__(run, "evaluation", {"mask_mean_by_class": masks})

    names, values = figures._classes_to_show(run)

    assert len(names) == len(values) == figures.MAX_CLASSES
    assert names[-1] == "odd"


@pytest.mark.parametrize("num_channels", [1, 16, 32])
def test_any_number_of_channels(runs: list[ReportedRun], num_channels: int) -> None:
    counts = [[5, 3, 0, 1]] * num_channels
    wide = with_evaluation(
        runs[1],
        mask_mean=[0.3] * num_channels,
        mask_mean_by_class={"a": [0.3] * num_channels, "b": [0.0] * num_channels},
        mask_histogram={"bin_edges": [0, 0.25, 0.5, 0.75, 1], "counts": counts},
        latent_std=[1.0] * num_channels,
        masked_latent_std=[0.0] * num_channels,
    )

    for draw in (figures.draw_mask_histograms, figures.draw_importance_by_class):
        assert pixels(lambda draw=draw: draw(wide)).std() > 5
    assert pixels(lambda: figures.draw_latent_std([wide])).std() > 5


def test_originals_are_repeated_only_where_they_differ(runs: list[ReportedRun]) -> None:
    other = replace(runs[2], pictures={k: v[:, ::2, ::2] for k, v in runs[2].pictures.items()})

    same = [title for title, _ in grids._strips(runs, 8)]
    different = [title for title, _ in grids._strips([*runs[:2], other], 8)]

    assert same.count("original") == 1
    assert len(same) == 1 + 1 + 2 + 2
    assert different.count("original") == 2
    assert pixels(lambda: grids.draw_reconstructions([*runs[:2], other])).std() > 5


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

    assert pixels(lambda: figures.draw_training_curves(read_runs([baseline]))).std() > 5
