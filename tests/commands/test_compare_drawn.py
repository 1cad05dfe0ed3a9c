"""`pelap compare` without pictures: what the models draw, and what it costs."""

import json
from pathlib import Path

import pytest

from pelap.cli import main
from pelap.pages.drawn_page import DrawnCost, lead
from tiny_pipelines import PIPELINES

FEW = ["--steps", "2", "--batch-sizes", "1", "2"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model without conditions, and the same with half its latents."""
    folder = tmp_path_factory.mktemp("models")
    whole, half = folder / "whole", folder / "half"
    PIPELINES["ldm"]().save_pretrained(whole)
    assert main(["prune", str(whole), "--keep", "0,1", "--fill", "zero", "-o", str(half)]) == 0
    return whole, half


def test_pictures_costs_and_what_was_removed_stand_on_one_page(
    models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    page = tmp_path / "page"
    names = [str(model) for model in models]
    assert main(["compare", *names, "-o", str(page), "--num-prompts", "3", *FEW]) == 0
    said = capsys.readouterr().out
    assert "half draws" in said
    assert "half beside whole, 3 drawn pictures" in said
    result = json.loads((page / "drawn.json").read_text())
    whole, half = result["costs"]
    assert (whole["name"], half["name"]) == ("whole", "half")
    assert half["latent_bytes"] * 2 == whole["latent_bytes"]
    assert half["parameters"] < whole["parameters"]
    assert set(half["times_as_fast"]) == {"1", "2"}
    assert not whole["times_as_fast"]
    assert result["side_by_side"]["rows"] == ["seed 0", "seed 1", "seed 2"]
    html = (page / "drawn.html").read_text()
    assert html.count("data:image/png") == 6
    for words in ("4 → 2 channels", "pelap recover pruned --teacher MODEL", "so no PSNR"):
        assert words in html, words


def test_a_text_model_needs_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, prompts = tmp_path / "sd", tmp_path / "prompts.txt"
    PIPELINES["stable_diffusion"]().save_pretrained(model)
    prompts.write_text("a red circle\na blue square\n")
    command = ["compare", str(model), "-o", str(tmp_path / "page"), *FEW]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "names no pictures: give --data.source" in said
    assert "--prompts FILE" in said
    assert not (tmp_path / "page").exists()
    assert main([*command, "--prompts", str(prompts)]) == 0
    result = json.loads((tmp_path / "page" / "drawn.json").read_text())
    assert result["side_by_side"]["rows"] == ["a red circle", "a blue square"]


def test_the_first_sentence_is_of_the_largest_batch():
    before = DrawnCost("original", 100, 1000, 4096, {})
    after = DrawnCost("small", 50, 400, 2048, {1: (1.1, 1.0, 1.2), 16: (2.5, 2.4, 2.6)})
    assert lead([before, after]) == (
        "small draws 2.50 times as many pictures in the same time as original, 16 at a time, with "
        "40 % of the arithmetic of a step and latents of 2,048 in place of 4,096 bytes."
    )
    assert lead([before]) == "original draws."
