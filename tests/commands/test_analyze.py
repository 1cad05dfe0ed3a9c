"""`pelap analyze` from the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import recommend
from pelap.cli import main
from pelap.core.records import from_json_dict, read_record
from pelap.pages.analysis_page import rotation_hint, write_analysis
from tiny_pipelines import PIPELINES
from two_processes import run_in_two_processes

SMALL = ["--num-pictures", "40", "--num-curve", "16", "--num-search", "8", "--learned-steps", "3"]
PHOTOS = ["--data.source", "photos", "--data.size", "16"]


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ldm")
    PIPELINES["ldm"]().save_pretrained(folder)
    return folder


def analyze(model: Path, output: Path, *more: str) -> int:
    return main(["analyze", str(model), "--output", str(output), *SMALL, *PHOTOS, *more])


def test_json_page_and_recommendation(
    ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert analyze(ldm, tmp_path, "--json", "--keep", "2") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "analysis.json").read_text())
    analysis = from_json_dict(Analysis, printed, "printed")
    assert analysis.num_channels == 4
    assert analysis.channels[0].taylor is not None
    assert "keep" in (tmp_path / "analysis.html").read_text().lower()
    assert list((tmp_path / "figures").glob("*.png"))
    assert printed["data"] == "photos, 16 pixels"


def test_page_holds_all_it_shows_and_escapes(ldm: Path, tmp_path: Path):
    assert analyze(ldm, tmp_path, "--keep", "2") == 0
    whole = read_record(Analysis, tmp_path / "analysis.json")
    named = replace(whole, name="<b>bold</b>", notes=["<i>"])
    found = recommend(named, keep=2)
    page = write_analysis(named, found, tmp_path / "page").read_text()
    assert "<b>bold" not in page
    assert "<i>" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert found.reason.split(":")[0] in page
    for channel in found.channels:
        assert f"<li>{channel}</li>" in page
    hint = rotation_hint(named, found)
    assert hint is None or hint in page
    worse = replace(found, psnr_db=found.psnr_db - 50)
    assert "--rotate" in (rotation_hint(named, worse) or "")
    names = {path.stem for path in (tmp_path / "page" / "figures").glob("*.png")}
    assert {"curves", "channels", "spectrum", "matrices", "agreement", "taylor"} <= names


def test_a_text_conditioned_model_is_analysed_without_its_denoiser(tmp_path: Path):
    PIPELINES["stable_diffusion_3"]().save_pretrained(tmp_path / "model")
    assert analyze(tmp_path / "model", tmp_path / "out", "--max-psnr-drop", "3") == 0
    analysis = read_record(Analysis, tmp_path / "out" / "analysis.json")
    assert analysis.channels[0].taylor is None
    assert any("denoiser" in note for note in analysis.notes)


class Mean(nn.Module):
    """Somebody's own autoencoder: each latent is a 2×2 mean of a colour, and back."""

    latent_channels = 3

    def __init__(self):
        super().__init__()
        self.mean = nn.Conv2d(3, 3, 2, stride=2, groups=3, bias=False)
        nn.init.constant_(self.mean.weight, 0.25)

    def encode(self, images: Tensor) -> Tensor:
        return self.mean(images)

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents, scale_factor=2.0)


def test_ones_own_autoencoder_is_analysed(tmp_path: Path):
    command = ["analyze", "--autoencoder", f"{__name__}:Mean", "--output", str(tmp_path)]
    assert main([*command, *SMALL, *PHOTOS]) == 0
    analysis = read_record(Analysis, tmp_path / "analysis.json")
    assert analysis.num_channels == 3
    assert min(one.leave_one_out_db for one in analysis.channels) > 1


def test_two_processes_give_the_numbers_of_one(ldm: Path, tmp_path: Path):
    assert analyze(ldm, tmp_path / "one") == 0
    run_in_two_processes("analyze", ldm, "--output", tmp_path / "two", *SMALL, *PHOTOS)
    one, two = (json.loads((tmp_path / n / "analysis.json").read_text()) for n in ("one", "two"))
    repeated = ("moments", "learned predictor")  # each process encodes the first batch, and learns
    for alone, shared in zip(one["cost"]["stages"], two["cost"]["stages"], strict=True):
        assert alone["stage"] == shared["stage"]
        assert alone == shared or alone["stage"] in (*repeated, "size of crops")
    assert_close(one | {"cost": None}, two | {"cost": None})


def assert_close(one: Any, two: Any, where: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_close(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two)
        for index, pair in enumerate(zip(one, two, strict=True)):
            assert_close(*pair, f"{where}[{index}]")
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-5), where
    else:
        assert one == two, where


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--keep", "9"], "from 1 to 4"),
        (["--keep", "2", "--max-psnr-drop", "1"], "one of"),
        (["--num-pictures", "0"], "num_pictures is 0"),
        (["--gate.budget", "x"], "--gate.budget"),
    ],
)
def test_mistakes_cost_one_line(
    ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], match: str
):
    assert analyze(ldm, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert match in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_pictures_must_be_named(ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["analyze", str(ldm), "--output", str(tmp_path / "out")]) == 2
    assert "--data.source" in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert analyze(ldm, tmp_path / "out", "--dry-run", "--effort", "normal") == 0
    printed = capsys.readouterr().out
    assert "calls a picture" in printed
    assert "At most, with effort normal." in printed
    assert not (tmp_path / "out").exists()
    assert main(["analyze", str(ldm), *SMALL, *PHOTOS, "--dry-run", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["num_pictures"] == 56
    assert main(["analyze", str(ldm), *SMALL, *PHOTOS]) == 2
    assert "--output FOLDER, or --dry-run" in capsys.readouterr().err


def test_what_it_cost_is_in_the_json_and_on_the_page(
    ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert analyze(ldm, tmp_path, "--effort", "exact") == 0
    assert "Effort exact: " in capsys.readouterr().out
    analysis = read_record(Analysis, tmp_path / "analysis.json")
    assert analysis.effort == "exact"
    assert analysis.cost is not None
    assert analysis.cost.per_picture("decodes") > 4
    page = (tmp_path / "analysis.html").read_text()
    assert "Calls a picture" in page
    assert analysis.cost.say().split(",")[0] in page
