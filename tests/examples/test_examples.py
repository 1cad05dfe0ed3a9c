"""The examples run as people run them, at a size of seconds."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, LDMPipeline

from pelap.cli import main as command_line
from tiny_pipelines import PIPELINES

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(source: str, name: str) -> ModuleType:
    """A script as a module, without running what stands behind `if __name__`."""
    spec = importlib.util.spec_from_loader(name, None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


class TestTrainingLoop:
    source = (EXAMPLES / "training_loop.py").read_text()

    def test_five_lines_are_marked_in_their_order(self):
        marks = re.findall(r"# pelap (\d)", self.source)
        assert marks == ["1", "2", "3", "4", "5"]

    def test_without_the_five_lines_it_is_a_plain_loop(self):
        plain = "\n".join(line for line in self.source.splitlines() if "# pelap " not in line)
        body = plain.partition("class Model")[2].partition("def train")[0]
        assert "gate" not in re.sub(r"harden_after", "", body)
        model = load(plain, "plain_loop").train(size=16, num_steps=3)
        assert not hasattr(model, "gate")

    @pytest.fixture(scope="class")
    @classmethod
    def output(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """What 30 steps of the whole script write."""
        folder = tmp_path_factory.mktemp("loop")
        load(cls.source, "training_loop").main(folder, size=16, num_steps=30)
        return folder

    @torch.no_grad()
    def test_what_the_gate_closed_is_gone_and_changes_nothing(self, output: Path):
        whole, pruned = (LDMPipeline.from_pretrained(output / name) for name in ("whole", "pruned"))
        (record,) = pruned.vqvae.config["_pelap"]
        kept = record["kept"]
        assert len(kept) == 2
        assert pruned.unet.config["in_channels"] == pruned.vqvae.config["latent_channels"] == 2
        latents = whole.vqvae.encode(torch.rand(2, 3, 16, 16)).latent_dist.mean
        masked = torch.zeros_like(latents)
        masked[:, kept] = latents[:, kept]
        pictures = whole.vqvae.decode(masked).sample
        difference = pruned.vqvae.decode(latents[:, kept]).sample - pictures
        assert float(difference.std() / pictures.std()) < 0.1  # zero padding at the edges
        torch.testing.assert_close(
            pruned.unet(latents[:, kept], 7).sample, whole.unet(masked, 7).sample[:, kept],
            atol=1e-5, rtol=1e-4,
        )  # fmt: skip

    def test_the_result_is_an_ordinary_pipeline(self, output: Path):
        pipeline: Any = DiffusionPipeline.from_pretrained(output / "pruned")
        pipeline.set_progress_bar_config(disable=True)
        pictures = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
        assert pictures.shape == (1, 16, 16, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline of diffusers' own."""
    path = tmp_path_factory.mktemp("models") / "ldm"
    PIPELINES["ldm"]().save_pretrained(path)
    return path


def test_an_analysis_can_be_read_without_pelap(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    sizes = ["--num-pictures", "8", "--num-curve", "4", "--num-search", "2", "--learned-steps", "1"]
    pictures = ["--data.source", "photos", "--data.size", "16"]
    command_line(["analyze", str(folder), "--output", str(tmp_path), *pictures, *sizes])
    capsys.readouterr()
    script = (EXAMPLES / "read_analysis.py").read_text()
    assert "pelap" not in re.findall(r"import (\w+)", script)
    load(script, "read_analysis").main(tmp_path / "analysis.json", max_psnr_drop=100)
    printed = capsys.readouterr().out
    assert printed.count("channel ") == 4
    assert [int(k) for k in re.findall(r"^keep +(\d)", printed, re.MULTILINE)] == [4, 3, 2, 1]
    assert re.search(r"within 100 dB: --keep \d\n", printed)


def test_a_folder_becomes_a_smaller_one(folder: Path, tmp_path: Path):
    script = load((EXAMPLES / "prune_folder.py").read_text(), "prune_folder")
    script.main(str(folder), tmp_path / "small", keep=2, size=16, num_pictures=8)
    small = DiffusionPipeline.from_pretrained(tmp_path / "small")
    assert small.unet.config["in_channels"] == small.vqvae.config["latent_channels"] == 2


NOTEBOOKS = ("prune_in_memory", "read_an_analysis")


def run_notebook(name: str) -> dict:
    """What stands in its namespace after all of its cells, in their order."""
    namespace: dict = {}
    for number, cell in enumerate(read_notebook(name)["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), namespace)
    return namespace


def read_notebook(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_hold_no_output(name: str):
    notebook = read_notebook(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_a_pipeline_is_pruned_in_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(EXAMPLES)
    found = run_notebook("prune_in_memory")
    assert found["pruned"].unet.config["in_channels"] == 8
    assert found["pipeline"].unet.config["in_channels"] == 16
    assert len(found["images"]) == 2


def test_an_analysis_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(EXAMPLES)
    found = run_notebook("read_an_analysis")
    axes = found["axes"]
    assert len(axes.lines) == 1 + len(found["found"]["criteria"])
    assert 1 <= found["fewest"]["num_kept"] <= 16
    found["plt"].close("all")
