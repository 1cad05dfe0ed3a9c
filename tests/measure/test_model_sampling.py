"""`pelap sample` on pipelines: stock folders, folders that pelap pruned, models in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import pelap
from pelap.cli import main
from pelap.core.errors import ConfigError, ModelError
from tiny_pipelines import PIPELINES


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            PIPELINES[name]().save_pretrained(root / name)
        return root / name

    return folder


def test_a_pruned_folder_draws_what_a_prompt_asks_for(
    folders: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    small, drawn = tmp_path / "small", tmp_path / "s.jpg"
    pruned = ["prune", str(folders("stable_diffusion")), "--keep", "0,2", "--fill", "zero"]
    assert main([*pruned, "-o", str(small)]) == 0
    capfd.readouterr()
    asked = ["sample", str(small), "--steps", "2", "--num", "3"]
    assert main([*asked, "--prompt", "a cat", "-o", str(drawn)]) == 0
    told = capfd.readouterr()
    assert told.out == f"{drawn}\n"
    assert "Expected types" not in told.err
    assert "kept in float32" not in told.err
    with Image.open(drawn) as grid:
        assert (grid.format, grid.size) == ("JPEG", (32, 32))
    (tmp_path / "prompts.txt").write_text("a cat\nadog\n")
    prompts = ["--prompts", str(tmp_path / "prompts.txt"), "--output", str(tmp_path / "rows.png")]
    assert main([*asked, *prompts]) == 0
    with Image.open(tmp_path / "rows.png") as grid:
        assert grid.size == (48, 32)


def test_classes_and_models_in_memory(folders: Callable[[str], Path], tmp_path: Path):
    asked = ["sample", str(folders("dit")), "--classes", "3,7", "--num", "2", "--steps", "2"]
    assert main([*asked, "-o", str(tmp_path / "classes.png")]) == 0
    with Image.open(tmp_path / "classes.png") as grid:
        assert grid.size == (32, 32)
    model = pelap.open_model(PIPELINES["stable_diffusion"]())
    pelap.sample(model, tmp_path / "folder", prompt="a", num=3, steps=2, precision="bf16")
    assert len(list((tmp_path / "folder").glob("*.png"))) == 3
    assert next(model.autoencoder.parameters()).dtype == torch.float32
    untold = pelap.open_model(PIPELINES["ldm"]())
    pelap.sample(untold, tmp_path / "untold.png", num=2, steps=2)
    with pytest.raises(ModelError, match="LDMPipeline cannot draw"):
        pelap.sample(untold, tmp_path / "bf16.png", num=2, steps=2, precision="bf16")


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("stable_diffusion", {}, "takes text: give --prompt"),
        ("stable_diffusion", {"classes": "all"}, "nobody to tell"),
        ("stable_diffusion", {"prompt": "a", "sampler": "ddim"}, "--sampler is for runs"),
        ("stable_diffusion", {"prompt": "a", "num": 0}, "--num is 0"),
        ("stable_diffusion", {"prompt": "a", "prompts": "varied"}, "Give one of"),
        ("dit", {}, "give --classes all"),
        ("dit", {"classes": "goldfish"}, r"there are all, 0 to 999\.$"),
        ("dit", {"prompt": "a"}, "takes classes"),
        ("ldm", {"prompt": "a"}, "nobody to tell"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    folders: Callable[[str], Path], tmp_path: Path, name: str, settings: dict, match: str
):
    with pytest.raises(ConfigError, match=match):
        pelap.sample(folders(name), tmp_path / "x.png", **settings)
    assert list(tmp_path.iterdir()) == []
