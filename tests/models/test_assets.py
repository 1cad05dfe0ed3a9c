"""What lies in assets/ loads in stock diffusers and does what its page says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline
from PIL import Image

import pelap
from pelap.cli import main
from pelap.config.run_config import DataConfig
from pelap.core.errors import ModelError
from pelap.data.load import load_pictures
from pelap.data.pictures import to_batch
from pelap.method.losses import psnr_db
from pelap.method.pipeline import is_autoencoder

AUTOENCODER = Path(__file__).parents[2] / "assets" / "cifar" / "vae"


def test_the_autoencoder_of_cifar_keeps_test_pictures(cifar10: Path):
    assert is_autoencoder(AUTOENCODER)
    vae: Any = AutoencoderKL.from_pretrained(AUTOENCODER, torch_dtype=torch.float32).eval()
    test = load_pictures(DataConfig(source="cifar10", num_train=1, num_test=256), 0).test
    images = to_batch(test.fetch(torch.arange(256)), "cpu")
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    assert latents.shape == (256, 16, 8, 8)
    assert psnr_db(float((decoded - images).square().mean())) > 28.5
    deviations = latents.std(dim=(0, 2, 3))  # the normaliser is in the weights
    assert float(deviations.min()) > 0.8
    assert float(deviations.max()) < 1.2


def test_the_pipeline_of_cifar_draws_what_it_is_told_without_pelap():
    pipeline: Any = DiTPipeline.from_pretrained(pelap.assets.cifar())
    pipeline.set_progress_bar_config(disable=True)
    classes = pipeline.get_label_ids(["horse", "ship"])
    drawn = [
        pipeline(
            labels, guidance_scale=2.0, num_inference_steps=4, output_type="np",
            generator=torch.Generator().manual_seed(0),
        ).images
        for labels in ([classes[0]], [classes[1]], [classes[0]])
    ]  # fmt: skip
    assert drawn[0].shape == (1, 32, 32, 3)
    assert np.array_equal(drawn[0], drawn[2])
    assert np.abs(drawn[0] - drawn[1]).mean() > 0.05


def test_pelap_finds_it_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = pelap.open_model("cifar")
    model.check()
    assert model.num_channels == 16
    (tmp_path / "cifar").mkdir()  # a folder of that name comes first
    with pytest.raises(ModelError, match="cifar"):
        pelap.open_model("cifar")


def test_verbs_that_take_runs_too_find_it_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    drawn = ["sample", "cifar", "--classes", "horse", "--num", "1", "--steps", "2"]
    assert main([*drawn, "--output", "horse.png"]) == 0
    with Image.open("horse.png") as picture:
        assert picture.size == (32, 32)
    assert main(["describe", "cifar"]) == 0


def test_the_assets_stay_small():
    files = [path for path in AUTOENCODER.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
