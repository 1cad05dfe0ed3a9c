"""The page about an analysis holds all it shows, for many channels and for one."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from analyses import make_analysis
from page_tags import Tags
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

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import recommend
from pelap.pages.analysis_figures import (
    LEAST_LOSS_DB,
    MOST_CLASSES,
    best_criteria,
    class_rows,
    draw_agreement,
    draw_channels,
    draw_classes,
    draw_curves,
    draw_matrices,
    draw_spectrum,
    draw_taylor,
    importance_order,
)
from pelap.pages.analysis_page import (
    channel_table,
    criteria_table,
    draw_cards,
    prune_command,
    write_analysis,
)

ALWAYS = {"curves", "channels", "spectrum", "matrices"}
pytestmark = pytest.mark.usefixtures("small_figures")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return make_analysis(8)


def test_page_holds_all_it_shows(analysis: Analysis, tmp_path: Path):
    path = write_analysis(analysis, recommend(analysis, keep=4), tmp_path / "out")

    page = path.read_text()
    assert path == tmp_path / "out" / "analysis.html"
    assert not re.search(r"https?:|//", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "script" not in Tags(page).names
    assert all(source.startswith("data:image/png;base64,") for source in Tags(page).values("src"))
    files = sorted((tmp_path / "out" / "figures").iterdir())
    assert {file.stem for file in files} == ALWAYS | {"agreement", "taylor", "classes"}
    alts = Tags(page).values("alt")
    assert len(alts) == len(set(alts)) == len(files)
    assert all(len(alt) > 20 for alt in alts)


def test_page_says_what_the_recommendation_costs(analysis: Analysis, tmp_path: Path):
    found = recommend(analysis, keep=4)
    page = write_analysis(analysis, found, tmp_path).read_text()

    assert found.reason in page
    assert f"{found.psnr_db:.2f} dB with them, {analysis.psnr_db:.2f} dB with all" in page
    assert f"lose {found.random_drop_db:.2f} dB" in page
    assert re.findall(r"<li>(\d+)</li>", page) == [str(channel) for channel in found.channels]
    assert f"pelap prune MODEL --keep {','.join(map(str, found.channels))} " in page
    for count in ("2,000 pictures", "64 of them", "512 pictures", "Seed 7"):
        assert count in page


def test_page_without_a_recommendation(analysis: Analysis, tmp_path: Path):
    page = write_analysis(analysis, None, tmp_path).read_text()

    assert "chips" not in re.sub(r"(?s)<style>.*?</style>", "", page)
    assert "--max-psnr-drop 0.3" in page
    assert criteria_table(analysis, None).header[1] == "dB lost with 4 kept"


def test_names_are_text_and_not_markup(tmp_path: Path):
    odd = make_analysis(2, name='<b>"&$x_1$', classes=("$\\frac{1}$", "<i>猫</i>", "_hidden"))
    page = write_analysis(odd, recommend(odd, keep=1), tmp_path).read_text()

    assert "&lt;b&gt;&#34;&amp;$x_1$: 2 latent channels" in page
    assert not {"b", "i", "curves"} & set(Tags(page).names)
    assert "A note about &lt;curves&gt;." in page


@pytest.mark.parametrize("num_channels", [1, 2, 32])
def test_any_number_of_channels(num_channels: int, tmp_path: Path):
    analysis = make_analysis(num_channels)
    found = recommend(analysis, keep=1)
    page = write_analysis(analysis, found, tmp_path).read_text()

    assert prune_command(found).split()[4] == f"{found.channels[0]},"
    assert ("agreement.png" in [f.name for f in (tmp_path / "figures").iterdir()]) == (
        num_channels > 1
    )
    assert f"{num_channels} latent channel{'s' if num_channels > 1 else ''}</h1>" in page


def test_what_was_not_measured_is_not_drawn():
    bare = make_analysis(8, taylor=False, classes=(), rotations=False)
    assert {card.name for card in draw_cards(bare, None)} == ALWAYS | {"agreement"}
    empty = [replace(one, leave_one_out_db_by_class=[None] * 3) for one in bare.channels]
    unlabelled = replace(bare, channels=empty, class_names=["a", "b", "c"])
    assert "classes" not in {card.name for card in draw_cards(unlabelled, None)}


def test_figures_survive_odd_numbers(analysis: Analysis):
    """A denoiser that pulls on nothing, a dead decoder, a channel without variance, constant
    criteria."""
    zeros = np.zeros((8, 8)).tolist()
    odd = replace(
        analysis,
        channels=[replace(one, taylor=[0.0] * 4, energy=0.0) for one in analysis.channels],
        decoder_metric=zeros,
        moments=replace(analysis.moments, covariance=zeros),
        eigenvalues=[0.0] * 8,
        agreement=replace(analysis.agreement, tau=[[None] * 11] * 11),
    )
    assert len(draw_cards(odd, None)) == 7
    assert set(texts(styled(lambda: draw_agreement(odd)).axes[0])) == {"–"}
    pull = numbers_of(styled(lambda: draw_taylor(odd)).axes[0])
    assert np.isnan(pull).all()
    left, right = styled(lambda: draw_matrices(odd)).axes[:2]
    for axes in (left, right):
        assert not np.nan_to_num(numbers_of(axes)).any()
    assert lengths(styled(lambda: draw_channels(odd)).axes[1]) == [0.0] * 8


def test_the_curves_are_those_of_the_analysis(analysis: Analysis):
    figure = styled(lambda: draw_curves(analysis, recommend(analysis, keep=3)))
    top, bottom = figure.axes
    assert titles(figure) == [
        "PSNR of reconstructions, dB (dotted: all channels)", "PSNR lost, dB"
    ]  # fmt: skip
    assert bottom.get_xlabel() == "channels kept"
    assert bottom.get_yscale() == "log"
    ((kept, psnr_db),) = curves(top, "v")
    assert (kept, psnr_db) == (analysis.random.num_kept, analysis.random.mean_db)
    ((_, lost),) = curves(bottom, "v")
    expected = [max(analysis.psnr_db - value, LEAST_LOSS_DB / 2) for value in psnr_db]
    assert lost == pytest.approx(expected)
    drawn = [values for _, values in curves(top)]
    for criterion in analysis.criteria:
        assert [point.psnr_db for point in criterion.curve] in drawn


def test_the_curve_always_shows_random_choices_and_marks_the_best(analysis: Analysis):
    labels = entries(draw_curves(analysis, None))
    assert "random, 5 draws" in labels
    assert set(best_criteria(analysis, None)) < set(labels)
    assert {"rotation pca", "rotation decoder", "8 other criteria"} < set(labels)
    found = recommend(analysis, keep=3, criterion="redundancy")
    figure = draw_curves(analysis, found)
    assert entries(figure)[-1] == "recommended: 3 kept"
    assert "redundancy" in entries(figure)
    assert ([3], [found.psnr_db]) in curves(figure.axes[0])


def test_channels_stand_in_order_with_what_they_cost(analysis: Analysis):
    figure = styled(lambda: draw_channels(analysis))
    left, right = figure.axes
    order = importance_order(analysis)
    assert titles(figure) == ["PSNR lost without it, dB", "variance"]
    assert [int(word) for word in words_of(left.get_yticklabels())] == order
    assert left.yaxis_inverted()
    mean, linear = (x for x, _ in curves(left))
    assert mean == [analysis.channels[c].leave_one_out_db for c in order]
    assert linear == [analysis.channels[c].leave_one_out_linear_db for c in order]
    assert lengths(right) == pytest.approx([analysis.channels[c].energy for c in order])
    assert entries(figure) == ["its mean in its place", "predicted from the others"]


def test_the_spectrum_shows_shares_and_redundancy(analysis: Analysis):
    left, right = styled(lambda: draw_spectrum(analysis)).axes
    ((_, shares),) = curves(left)
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert heights(right) == pytest.approx([one.r2 for one in analysis.channels])


def test_heat_maps_hold_the_numbers_of_the_analysis(analysis: Analysis):
    metric, correlation = (
        numbers_of(axes) for axes in styled(lambda: draw_matrices(analysis)).axes[:2]
    )
    assert metric == pytest.approx(np.asarray(analysis.decoder_metric))
    assert np.diag(correlation) == pytest.approx(np.ones(8))

    axes = styled(lambda: draw_agreement(analysis)).axes[0]
    names = words_of(axes.get_yticklabels())
    assert names == analysis.agreement.names == words_of(axes.get_xticklabels())
    assert len(texts(axes)) == len(names) ** 2

    axes = styled(lambda: draw_taylor(analysis)).axes[0]
    assert words_of(axes.get_yticklabels())[0] == "0 to 249"
    assert numbers_of(axes).shape == (4, 8)

    axes = styled(lambda: draw_classes(analysis)).axes[0]
    assert words_of(axes.get_yticklabels()) == analysis.class_names
    by_class = [one.leave_one_out_db_by_class for one in analysis.channels]
    assert numbers_of(axes).T.tolist() == by_class


def test_tables_are_in_order(analysis: Analysis):
    found = recommend(analysis, keep=4)
    rows = [[cell.text for cell in row] for row in criteria_table(analysis, found).rows]
    losses = [float(row[1].replace("−", "-")) for row in rows]
    assert losses == sorted(losses)
    assert rows[0][1] == f"{found.drop_db:.2f}"
    assert "random" in [row[0] for row in rows]
    rows = [[cell.text for cell in row] for row in channel_table(analysis, found).rows]
    assert [int(row[0]) for row in rows if row[1] == "yes"] == [
        channel for channel in (int(row[0]) for row in rows) if channel in found.channels
    ]


def test_of_many_classes_those_furthest_from_the_mean_are_shown():
    many = make_analysis(2, classes=tuple(f"class {index}" for index in range(40)))
    first, second = many.channels
    assert first.leave_one_out_db_by_class is not None
    by_class = [99.0, None, *first.leave_one_out_db_by_class[2:]]
    rows = class_rows(
        replace(many, channels=[replace(first, leave_one_out_db_by_class=by_class), second])
    )
    assert len(rows) == MOST_CLASSES
    assert "class 0" in rows
    assert "class 1" not in rows
