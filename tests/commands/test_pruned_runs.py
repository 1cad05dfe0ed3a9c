"""What `pelap prune` makes of a run of the paper's networks: it draws, and is compared with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.pyplot import imread

import pelap
from pelap.cli import main
from pelap.config.overrides import apply_overrides

FEW = [
    "--data.source",
    "photos",
    "--data.size",
    "16",
    "--data.num-train",
    "64",
    "--data.num-test",
    "16",
]
GATE = ["--gate.kind", "top_k", "--gate.no-adaptive", "--gate.budget", "2", "--run.max-steps", "8"]
PICTURES = pelap.pictures("photos", size=16, num_train=64, num_test=16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose gate leaves two of four latents open, and that pruned to two."""
    root = tmp_path_factory.mktemp("runs")
    pelap.train(apply_overrides(pelap.get_preset("tiny"), [*FEW, *GATE]), root / "run")
    small = pelap.prune(root / "run", PICTURES, keep=(0, 1), num_pictures=8)
    small.save(root / "small")
    return root


def test_the_gate_of_all_latents_is_gone_and_their_side_is_told(folders: Path):
    index = json.loads((folders / "small" / "model_index.json").read_text())
    assert not {"gate", "importance"} & set(index)
    assert not (folders / "small" / "gate").exists()
    assert pelap.open_model(folders / "small").latent_side == 4
    assert pelap.open_model(folders / "run").latent_side == 4


def test_it_draws_pictures_of_the_size_of_its_run(folders: Path, tmp_path: Path):
    words = ["sample", str(folders / "small"), "--num", "3", "--steps", "2"]
    assert main([*words, "-o", str(tmp_path / "drawn")]) == 0
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert [imread(path).shape[:2] for path in drawn] == [(16, 16)] * 3


def test_kinds_of_output_and_where_noise_comes_from(folders: Path):
    pipeline: Any = pelap.open_model(folders / "run").pipeline()
    seeds = [torch.Generator().manual_seed(n) for n in (0, 1)]
    noise = torch.cat([torch.randn(1, 4, 4, 4, generator=seed) for seed in seeds])
    tensors = pipeline(noise, num_inference_steps=2, output_type="pt").images  # in [-1, 1]
    seeds = [torch.Generator().manual_seed(n) for n in (0, 1)]
    arrays = pipeline(
        generator=seeds, batch_size=2, num_inference_steps=2, output_type="np"
    ).images  # in [0, 1]
    wanted = (tensors.permute(0, 2, 3, 1).numpy() + 1) / 2
    np.testing.assert_allclose(arrays, wanted, atol=1 / 255)


def test_it_stands_beside_its_run_at_the_same_size(folders: Path, tmp_path: Path):
    models = [str(folders / "run"), str(folders / "small")]
    few = [
        "--num-pictures",
        "8",
        "--num-samples",
        "8",
        "--steps",
        "2",
        "--num-prompts",
        "2",
        "--batch-sizes",
        "1",
    ]
    assert main(["compare", *models, *FEW, *few, "-o", str(tmp_path / "page")]) == 0
    found = json.loads((tmp_path / "page" / "tradeoff.json").read_text())
    assert (tmp_path / "page" / "tradeoff.html").stat().st_size > 10_000
    whole, small = (one["measured"]["cost"]["macs"]["denoiser_step"] for one in found["models"])
    assert 0.5 < small / whole < 1
    assert found["side_by_side"]["models"][1]["noise"].startswith("run's, carried to 2")


def test_a_pipeline_of_an_unknown_class_is_one_line(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = tmp_path / "other"
    pelap.open_model(folders / "small").pipeline().save_pretrained(other)
    index = json.loads((other / "model_index.json").read_text())
    index["_class_name"] = "MyPipeline"
    (other / "model_index.json").write_text(json.dumps(index))
    assert main(["sample", str(other), "-o", str(tmp_path / "s.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "other is a MyPipeline, which this diffusers does not have" in line
