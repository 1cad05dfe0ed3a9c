"""evaluation.json: its contract, its figures against a plain recomputation, its repeatability."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pelap.commands.describe import measure_size
from pelap.config.presets import as_baseline, paper, tiny
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ConfigError, RunError
from pelap.core.records import to_json_dict
from pelap.data.load import load_pictures
from pelap.data.pictures import to_batch
from pelap.measure.counts import count_macs, count_parameters
from pelap.measure.evaluation_record import Evaluation, read_evaluation
from pelap.measure.run_evaluation import evaluate_run, measure
from pelap.measure.run_sampling import load_system, sample_run
from pelap.measure.spread import Moments
from pelap.method.step import make_draws
from pelap.method.system import build_system

CONTRACT = {"num_parameters", "diffusion_loss", "reconstruction_mse_sum", "reconstruction_psnr_db",
            "masked_reconstruction_mse_sum", "mask_mean", "active_channels", "mask_mean_by_class",
            "zero_latent_diffusion_loss", "latent_std", "collapse"}  # fmt: skip


@pytest.fixture(scope="module")
def evaluation(tiny_run: RunFolder) -> Evaluation:
    return evaluate_run(tiny_run)


def test_contract(tiny_run: RunFolder, evaluation: Evaluation):
    values = json.loads(tiny_run.evaluation_path.read_text())
    assert set(values) >= CONTRACT
    assert set(values["collapse"]) == {"verdict", "reasons"}
    assert not {"quality", "channel_sets"} & set(values)
    assert values == to_json_dict(evaluation)
    assert read_evaluation(tiny_run) == evaluation
    with np.load(tiny_run.pictures_path, allow_pickle=False) as pictures:
        assert {pictures[name].shape[1:] for name in pictures.files} == {(16, 16, 3)}
        assert len(pictures["samples"]) == 8
    assert not list(tiny_run.path.glob(".*partial*"))


def test_a_second_call_gives_the_same_numbers(tiny_run: RunFolder, evaluation: Evaluation):
    assert evaluate_run(tiny_run) == evaluation


def test_samples_are_drawn_in_the_asked_precision_and_losses_are_not(
    tiny_run: RunFolder, evaluation: Evaluation, tmp_path: Path
):
    folder = RunFolder(Path(shutil.copytree(tiny_run.path, tmp_path / tiny_run.name)))
    config = folder.config()
    config = replace(config, evaluation=replace(config.evaluation, precision="bf16"))
    found = evaluate_run(folder, config)
    assert found == replace(evaluation, sampler=replace(evaluation.sampler, precision="bf16"))
    assert evaluation.sampler.precision is None
    with np.load(tiny_run.pictures_path) as ours, np.load(folder.pictures_path) as theirs:
        apart = np.abs(ours["samples"].astype(int) - theirs["samples"])
    assert 0 < apart.mean() < 3


def test_figures_against_one_batch_computed_plainly(tiny_run: RunFolder, evaluation: Evaluation):
    config = tiny_run.config()
    config = replace(config, evaluation=replace(config.evaluation, batch_size=64))
    device = torch.device("cpu")
    system = load_system(tiny_run, device)
    pictures = load_pictures(config.data, config.run.seed).test
    sums = measure(system, pictures, config, device)
    images = to_batch(pictures.fetch(torch.arange(64)), device)
    draws = make_draws(config, 64, "validation", 0, device, seed=config.evaluation.seed)
    with torch.no_grad():
        output = system(images, draws)
    squares = (output.reconstruction - images).square().sum(dim=(1, 2, 3)).mean().item()
    assert sums.squared_error / 64 == pytest.approx(squares, rel=1e-5)
    noise_loss = (output.prediction - draws.noise).square().mean().item()
    assert sums.diffusion / 64 == pytest.approx(noise_loss, rel=1e-5)
    expected = output.latent.latents.std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(sums.latents.std().float(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        evaluation.mask_mean, output.gate.mask.mean(dim=0).numpy(), rtol=1e-3
    )


def test_masks_by_class_average_to_the_mean_mask(tiny_run: RunFolder, evaluation: Evaluation):
    pictures = load_pictures(tiny_run.config().data, tiny_run.config().run.seed).test
    counts = torch.bincount(pictures.labels, minlength=len(pictures.class_names)).double()
    rows = [evaluation.mask_mean_by_class[name] for name in pictures.class_names]
    weighted = (counts[:, None] * torch.tensor(rows, dtype=torch.float64)).sum(0) / counts.sum()
    np.testing.assert_allclose(weighted.numpy(), evaluation.mask_mean, rtol=1e-5)


def test_histogram_counts_every_picture_once(evaluation: Evaluation):
    assert [sum(channel) for channel in evaluation.mask_histogram.counts] == [64] * 4


def test_psnr_belongs_to_the_squared_error(evaluation: Evaluation):
    per_value = evaluation.reconstruction_mse_sum / (3 * 16 * 16)
    assert evaluation.reconstruction_psnr_db == pytest.approx(10 * np.log10(4 / per_value))


def test_moments_against_numpy():
    moments = Moments()
    parts = [torch.randn(3, 2, 4, 4) * 3 + 5, torch.randn(1, 2, 4, 4)]
    for part in parts:
        moments.add(part)
    expected = torch.cat(parts).numpy().std(axis=(0, 2, 3))
    np.testing.assert_allclose(moments.std().numpy(), expected, rtol=1e-5)
    video = Moments()
    video.add(parts[0].unflatten(3, (2, 2)))
    expected = parts[0].numpy().std(axis=(0, 2, 3))
    np.testing.assert_allclose(video.std().numpy(), expected, rtol=1e-5)


def test_describe_counts_the_papers_parameters():
    size = measure_size(paper())
    assert size.num_parameters == {
        "autoencoder": 2_127_499,
        "importance": 292,
        "denoiser": 820_748,
        "total": 2_127_499 + 292 + 820_748,
    }
    assert size.shapes["latent"] == [4, 8, 8]


def test_macs_of_the_predictor_are_those_of_its_two_layers():
    assert count_macs(build_system(paper()), paper())["importance"] == 4 * 32 + 32 * 4


def test_baseline_counts_no_predictor():
    assert count_parameters(build_system(as_baseline(tiny())))["importance"] == 0


def test_sample_to_grid_and_folder(tiny_run: RunFolder, tmp_path: Path):
    sample_run(tiny_run, tmp_path / "grid.png", num_samples=5, num_steps=2)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (48, 32)
    sample_run(tiny_run, tmp_path / "grid.jpg", num_samples=4, num_steps=2)
    with Image.open(tmp_path / "grid.jpg") as grid:
        assert (grid.format, grid.size) == ("JPEG", (32, 32))
    with pytest.raises(ConfigError, match=r"give a \.png or \.jpg"):
        sample_run(tiny_run, tmp_path / "grid.tiff", num_samples=4, num_steps=2)
    sample_run(tiny_run, tmp_path / "folder", num_samples=3, num_steps=2, sampler="dpm-solver++")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
    ]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampler": "euler"}, "--sampler"),
        ({"num_steps": 0}, "--steps"),
        ({"num_samples": 0}, "--num"),
    ],
)
def test_sampling_mistakes_are_named(
    tiny_run: RunFolder, tmp_path: Path, options: dict, match: str
):
    with pytest.raises(ConfigError, match=match):
        sample_run(tiny_run, tmp_path / "grid.png", **options)
    assert not (tmp_path / "grid.png").exists()


def test_sampling_overwrites_nothing(tiny_run: RunFolder, tmp_path: Path):
    (tmp_path / "grid.png").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        sample_run(tiny_run, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_text() == "mine"


def test_a_run_without_a_model_says_how_to_go_on(tmp_path: Path, tiny_run: RunFolder):
    (tmp_path / "config.json").write_text(tiny_run.config_path.read_text())
    with pytest.raises(RunError, match="pelap resume"):
        evaluate_run(RunFolder(tmp_path))


def test_a_damaged_evaluation_is_named(tiny_run: RunFolder, evaluation: Evaluation, tmp_path: Path):
    (tmp_path / "config.json").write_text(tiny_run.config_path.read_text())
    values = to_json_dict(evaluation)
    del values["mask_mean"]
    (tmp_path / "evaluation.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"evaluation\.json lacks the field 'mask_mean'"):
        read_evaluation(RunFolder(tmp_path))
