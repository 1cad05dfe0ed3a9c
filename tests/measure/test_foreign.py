"""diffusers' own pipelines: diagnosed like ours, or refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LDMPipeline
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from pelap.cli import main
from pelap.commands.diagnose_model import load_diagnosable
from pelap.core.errors import ModelError


def tiny_vq(**more: Any) -> VQModel:
    return VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, num_vq_embeddings=16,
        norm_num_groups=4, scaling_factor=0.5, **more,
    )  # fmt: skip


def tiny_kl() -> Any:
    build: Any = AutoencoderKL
    return build(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, norm_num_groups=4,
        scaling_factor=0.5,
    )  # fmt: skip


def tiny_taesd() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), latent_channels=3,
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), scaling_factor=0.5,
    )  # fmt: skip


def tiny_unet(**more: Any) -> UNet2DModel:
    options: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "sample_size": 8, "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }  # fmt: skip
    return UNet2DModel(layers_per_block=1, norm_num_groups=4, **options | more)


@pytest.mark.parametrize("make", [tiny_vq, tiny_kl, tiny_taesd])
def test_diffusers_pipeline(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make: Callable[[], Any]
):
    torch.manual_seed(0)
    folder, output = tmp_path / "ldm", tmp_path / "found"
    autoencoder = make().eval()
    LDMPipeline(autoencoder, tiny_unet(), DDIMScheduler()).save_pretrained(folder)
    saved = set(folder.rglob("*"))
    command = ["diagnose", str(folder), "--num-pictures", "24", "--json"]
    assert main([*command, "--data.source", "photos"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"]["size"] == 16
    assert len(result["latent_std"]) == 3
    assert saved == set(folder.rglob("*"))
    assert main([*command, "--output", str(output), "--data.source", "photos"]) == 0
    assert json.loads((output / "diagnosis.json").read_text()) == result


def test_scaling_factor_becomes_the_normalizer(tmp_path: Path):
    autoencoder: Any = tiny_vq().eval()
    LDMPipeline(autoencoder, tiny_unet(), DDIMScheduler()).save_pretrained(tmp_path)
    system = load_diagnosable(tmp_path).system
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = 0.5 * autoencoder.encode(images).latents
        latents = system.encode(images, torch.zeros_like(expected)).latents
        torch.testing.assert_close(latents, expected)
        torch.testing.assert_close(system.decode(expected), autoencoder.decode(2 * expected).sample)


def unknown(index: dict[str, Any]) -> None:
    index["unet"] = ["diffusers", "UNet1DModel"]


def remote_code(index: dict[str, Any]) -> None:
    index["vqvae"] = ["my_code", "MyAutoencoder"]


def no_denoiser(index: dict[str, Any]) -> None:
    del index["unet"]


@pytest.mark.parametrize(
    ("unet", "scheduler", "change", "match"),
    [
        ({}, DDIMScheduler(), unknown, "UNet1DModel is not supported; supported is"),
        ({}, DDIMScheduler(), remote_code, "my_code.MyAutoencoder"),
        ({}, DDIMScheduler(), no_denoiser, "names no denoiser"),
        ({"in_channels": 6}, DDIMScheduler(), None, "latents have 3"),
        ({}, FlowMatchEulerDiscreteScheduler(), None, "no betas"),
        ({}, DDIMScheduler(prediction_type="sample"), None, "predicts 'sample'"),
        ({}, DDIMScheduler(), None, "--data.source"),
    ],
)
def test_what_cannot_be_diagnosed_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    unet: dict[str, Any],
    scheduler: Any,
    change: Callable[[dict[str, Any]], None] | None,
    match: str,
):
    LDMPipeline(tiny_vq(), tiny_unet(**unet), scheduler).save_pretrained(tmp_path)
    if change is not None:
        index = json.loads((tmp_path / "model_index.json").read_text())
        change(index)
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    capsys.readouterr()
    assert main(["diagnose", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pelap: ")
    assert captured.err.count("\n") == 1
    assert match in captured.err


def test_only_safetensors_are_read(tmp_path: Path):
    LDMPipeline(tiny_vq(), tiny_unet(), DDIMScheduler()).save_pretrained(
        tmp_path, safe_serialization=False
    )
    with pytest.raises(ModelError, match="which are never loaded"):
        load_diagnosable(tmp_path)


def test_pictures_of_a_size_that_the_model_cannot_take(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    deep = tiny_unet(
        block_out_channels=(8,) * 4, down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
    )  # fmt: skip
    LDMPipeline(tiny_vq(), deep, DDIMScheduler()).save_pretrained(tmp_path)
    capsys.readouterr()
    assert main(["diagnose", str(tmp_path), "--data.source", "photos", "--data.size", "24"]) == 2
    captured = capsys.readouterr().err
    assert "--data.size is 24" in captured
    assert captured.count("\n") == 1
