"""The page about an analysis holds all it shows, for many channels and for one."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from analyses import make_analysis
from PIL import Image

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import recommend
from pelap.report.analysis_figures import best_criteria, draw_curves
from pelap.report.analysis_heat_maps import MOST_CLASSES, class_rows
from pelap.report.analysis_page import (
    channel_table,
    criteria_table,
    draw_cards,
    prune_command,
    write_analysis,
)

ALWAYS = {"curves", "channels", "spectrum", "matrices"}
pytestmark = pytest.mark.usefixtures("small_figures")


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def values(self, name: str) -> list[str]:
        return [value or "" for key, value in self.attributes if key == name]


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
    for card in draw_cards(odd, None):
        with Image.open(io.BytesIO(card.image.png)) as image:
            assert np.asarray(image.convert("L")).std() > 5, card.name


def test_the_curve_always_shows_random_choices_and_marks_the_best(analysis: Analysis):
    labels = [text.get_text() for text in draw_curves(analysis, None).legends[0].get_texts()]
    assert "random, 5 draws" in labels
    assert set(best_criteria(analysis, None)) < set(labels)
    assert {"rotation pca", "rotation decoder", "8 other criteria"} < set(labels)
    found = recommend(analysis, keep=3, criterion="redundancy")
    marked = [text.get_text() for text in draw_curves(analysis, found).legends[0].get_texts()]
    assert marked[-1] == "recommended: 3 kept"
    assert "redundancy" in marked


def test_tables_are_in_order(analysis: Analysis):
    found = recommend(analysis, keep=4)
    rows = criteria_table(analysis, found).rows
    losses = [float(row[1].replace("−", "-")) for row in rows]
    assert losses == sorted(losses)
    assert rows[0][1] == f"{found.drop_db:.2f}"
    assert "random" in [row[0] for row in rows]
    table = channel_table(analysis, found)
    assert [int(row[0]) for row in table.rows if row[1] == "yes"] == [
        channel for channel in (int(row[0]) for row in table.rows) if channel in found.channels
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
