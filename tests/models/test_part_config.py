"""Configs that no class could have written are one line that names the field."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from pelap.cli import main
from pelap.core.errors import ModelError
from pelap.measure.macs import count_denoiser_macs
from pelap.models.loaded import read_forward_process
from pelap.models.opening import open_model
from pelap.models.part_config import check_config
from tiny_pipelines import PIPELINES


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "sd"
    PIPELINES["stable_diffusion"]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", PIPELINES)
def test_what_diffusers_writes_is_taken(kind: str, tmp_path: Path):
    PIPELINES[kind]().save_pretrained(tmp_path / kind)
    assert open_model(tmp_path / kind).denoiser is not None


@pytest.mark.parametrize(
    "config",
    [
        {"attention_head_dim": [5, 10, 20, 20], "transformer_layers_per_block": [[1, 2], 10]},
        {"only_cross_attention": [True, False], "class_embed_type": None, "sample_size": [64, 96]},
        {"cross_attention_norm": False, "num_class_embeds": 10, "_pelap": [{"a": {}}]},
        {"no field of the class": {}},
    ],
)
def test_what_published_configs_hold_is_taken(config: dict[str, Any]):
    check_config(Path("config.json"), config, UNet2DConditionModel)


def test_one_type_a_level_is_taken():
    config = {"encoder_block_types": ["ResBlock", "EfficientViTBlock"], "latents_mean": [0.0]}
    check_config(Path("config.json"), config, AutoencoderDC)


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("unet", "norm_eps", {"a": 1}, "where a number belongs"),
        ("unet", "down_block_types", [0, "DownBlock2D"], "where a text belongs"),
        ("unet", "timestep_post_act", 3, "where a text belongs"),
        ("unet", "num_class_embeds", "ten", "where a number belongs"),
        ("vae", "layers_per_block", 2**70, "out of all range"),
        ("vae", "scaling_factor", float("nan"), "out of all range"),
        ("vae", "block_out_channels", [8, 0], "cannot be loaded"),
        ("vae", "block_out_channels", [[8], [8]], "lists where values belong"),
        ("unet", "mid_block_scale_factor", [[1]], "lists where values belong"),
        ("vae", "block_out_channels", {"a": 1}, "where a number belongs"),
        ("unet", "down_block_types", ["NoBlock2D"], "cannot be loaded"),
    ],
)
def test_a_field_out_of_order_is_one_line(
    whole: Path,
    tmp_path: Path,
    part: str,
    field: str,
    value: Any,
    said: str,
    capsys: pytest.CaptureFixture[str],
):
    folder = tmp_path / "sd"
    shutil.copytree(whole, folder)
    config = json.loads((folder / part / "config.json").read_text())
    (folder / part / "config.json").write_text(json.dumps(config | {field: value}))
    assert main(["describe", str(folder)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pelap:")]
    assert said in line


@pytest.mark.parametrize("entry", [-1, ["diffusers"], ["diffusers", [1]], {"a": 1}, None])
def test_an_index_names_a_library_and_a_class(whole: Path, tmp_path: Path, entry: Any):
    index = json.loads((whole / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"unet": entry}))
    with pytest.raises(ModelError, match=r"model_index\.json: unet is .* where a library and a"):
        open_model(tmp_path)


def test_an_autoencoder_on_its_own_is_described(whole: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["describe", str(whole / "vae"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["num_parameters"]) == {"encoder", "decoder", "total"}
    assert found["macs"]["decode"] > 0


def test_a_denoiser_that_cannot_be_run_is_one_line(whole: Path):
    denoiser: Any = open_model(whole).denoiser
    denoiser.time_embedding.linear_1 = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError, match="UNet2DConditionModel cannot be run: "):
        count_denoiser_macs(denoiser)


@pytest.mark.parametrize(
    "change", [{"trained_betas": 0}, {"beta_end": float("nan")}, {"beta_end": {}}, {"beta_end": 3}]
)
def test_betas_out_of_order_are_one_line(change: dict[str, Any]):
    config = {k: v for k, v in DDPMScheduler().config.items() if not k.startswith("_")}
    assert read_forward_process(config | {"rescale_betas_zero_snr": True}) is not None
    with pytest.raises(ModelError, match="The scheduler"):
        read_forward_process(config | change)


def test_a_damaged_text_encoder_is_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(whole, tmp_path / "sd")
    path = tmp_path / "sd" / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": None}))
    words = ["sample", str(tmp_path / "sd"), "--prompt", "a", "--steps", "1"]
    assert main([*words, "-o", str(tmp_path / "s.png")]) == 2
    assert "sd cannot be loaded whole" in capsys.readouterr().err
