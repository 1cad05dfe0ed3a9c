"""In which precision a part is read, what is written, and which weights are refused by name."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file

from pelap.core.errors import ModelError, PelapError
from pelap.core.weight_files import find_weights
from pelap.method.normalizer import read_statistics
from pelap.method.pipeline import load_pipeline
from pelap.models.opening import open_model
from pelap.models.saving import ChangedModel, save_model
from tiny_pipelines import PIPELINES, autoencoder_kl

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    PIPELINES["ldm"]().save_pretrained(tmp_path / "ldm")
    return tmp_path / "ldm"


def unet_dtype(folder: Path) -> torch.dtype:
    model = open_model(folder)
    assert model.denoiser is not None
    return next(model.denoiser.parameters()).dtype


def test_whole_precision_is_read_where_half_lies_beside_it(folder: Path):
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    assert unet_dtype(folder) == torch.float32
    assert open_model(folder).variants["unet"] is None


def test_each_part_keeps_its_own_variant(folder: Path, tmp_path: Path):
    unet = UNet2DModel.from_pretrained(folder / "unet").half()
    (folder / "unet" / WEIGHTS).unlink()
    unet.save_pretrained(folder / "unet", variant="fp16", max_shard_size="20KB")
    model = open_model(folder)
    assert (model.variants["unet"], model.variants["vqvae"]) == ("fp16", None)
    save_model(
        model, ChangedModel(model.autoencoder, model.denoiser, "", {}, {}), tmp_path / "same"
    )
    assert (tmp_path / "same" / "unet" / WEIGHTS.replace(".", ".fp16.")).is_file()
    assert (tmp_path / "same" / "vqvae" / WEIGHTS).is_file()
    assert unet_dtype(tmp_path / "same") == torch.float16
    assert model.pipeline().unet is model.denoiser


def test_mixed_files_are_read_in_their_widest_precision(folder: Path):
    file = folder / "unet" / WEIGHTS
    weights = {name: values.half() for name, values in load_file(file).items()}
    weights["conv_in.weight"] = weights["conv_in.weight"].float()
    save_file(weights, file, {"format": "pt"})
    assert unet_dtype(folder) == torch.float32


def spoil(folder: Path, how: str) -> None:
    """Damage the UNet of a pipeline."""
    part = folder / "unet"
    file = part / WEIGHTS
    weights, config = load_file(file), json.loads((part / "config.json").read_text())
    match how:
        case "lacks":
            weights.pop("conv_in.weight")
        case "prefixed":
            weights = {f"_orig_mod.{name}": values for name, values in weights.items()}
        case "not finite":
            weights["conv_in.bias"][0] = float("nan")
        case "empty":
            weights = {}
        case "integers":
            weights = {name: values.to(torch.int8) for name, values in weights.items()}
        case "eight bits":
            weights = {name: values.to(torch.float8_e4m3fn) for name, values in weights.items()}
        case "another shape":
            weights["conv_in.weight"] = weights["conv_in.weight"][:, :1].contiguous()
        case "quantised":
            config["quantization_config"] = {"quant_method": "bitsandbytes"}
    save_file(weights, file, {"format": "pt"})
    (part / "config.json").write_text(json.dumps(config))
    match how:
        case "cut":
            file.write_bytes(file.read_bytes()[:100])
        case "pickles":
            file.unlink()
            torch.save({}, part / "w.bin")
            index = {"weight_map": dict.fromkeys(weights, "w.bin")}
            (part / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        case "no shard":
            file.unlink()
            index = {"weight_map": dict.fromkeys(weights, "a.safetensors")}
            (part / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
        case "no index":
            file.unlink()
            (part / f"{WEIGHTS}.index.json").write_text("[]")


SAID = {
    "lacks": "hold no conv_in.weight;",
    "prefixed": "torch.compile",
    "not finite": "conv_in.bias holds values that are not finite",
    "empty": "holds no weights",
    "integers": "quantised weights are not supported",
    "eight bits": "8-bit floats",
    "another shape": "cannot be loaded",
    "quantised": r"quantised \(bitsandbytes\)",
    "cut": "is damaged",
    "pickles": "never pickles",
    "no shard": "holds no a.safetensors",
    "no index": "is no index",
}


@pytest.mark.parametrize("how", SAID)
def test_weights_that_are_not_whole_get_one_line(folder: Path, how: str):
    spoil(folder, how)
    with pytest.raises(ModelError, match=SAID[how]) as caught:
        open_model(folder)
    assert "\n" not in str(caught.value)


def test_a_runs_model_is_held_to_the_same(tiny_run: Any, tmp_path: Path):
    shutil.copytree(tiny_run.model, tmp_path / "model")
    file = tmp_path / "model" / "denoiser" / WEIGHTS
    weights = load_file(file)
    name = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(PelapError, match=f"hold no {name}"):
        load_pipeline(tmp_path / "model")


def test_a_folder_without_weights_is_named(tmp_path: Path):
    autoencoder_kl().save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        find_weights(tmp_path)


def test_a_link_out_of_the_model_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    (folder / "scheduler" / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"notes.txt is a link out of"):
        open_model(folder)


def test_a_pipe_is_refused_and_not_waited_for(folder: Path):
    os.mkfifo(folder / "scheduler" / "notes.txt")
    with pytest.raises(ModelError, match=r"notes.txt is neither a file nor a folder"):
        open_model(folder)


def test_links_inside_and_to_a_hub_caches_blobs_are_followed(folder: Path, tmp_path: Path):
    file = folder / "unet" / WEIGHTS
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    file.rename(blobs / "ab12")
    file.symlink_to(blobs / "ab12")
    (folder / "notes").write_text("of the model")
    (folder / "scheduler" / "notes.txt").symlink_to(folder / "notes")
    assert unet_dtype(folder) == torch.float32


def test_a_part_that_is_a_path_is_refused(folder: Path):
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"../secret": ["diffusers", "X"]}))
    with pytest.raises(ModelError, match=r"names the part '\.\./secret', a path"):
        open_model(folder)


def test_one_file_with_a_model_is_told_how_to_become_a_folder(folder: Path):
    with pytest.raises(ModelError, match="from_single_file"):
        open_model(folder / "unet" / WEIGHTS)


def test_statistics_and_scaling_factor_count_together():
    """As in StableDiffusionXLPipeline, in front of its decoder."""
    autoencoder = autoencoder_kl(latents_mean=[1.0] * 4, latents_std=[2.0] * 4, scaling_factor=0.5)
    assert isinstance(autoencoder, AutoencoderKL)
    normalizer = read_statistics(autoencoder)
    assert normalizer is not None
    decoded = normalizer.inverse(torch.full((1, 4, 1, 1), 3.0))
    assert torch.allclose(decoded, torch.full((1, 4, 1, 1), 3.0 * 2 / 0.5 + 1))


def test_a_scaling_factor_alone_counts_once():
    normalizer = read_statistics(autoencoder_kl(scaling_factor=0.5))
    assert normalizer is not None
    assert normalizer.std.tolist() == [2.0] * 4
