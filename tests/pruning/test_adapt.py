"""A LoRA of the original, carried to what was pruned from it and loaded by stock diffusers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

import pelap
from pelap.families.registry import example_inputs
from tiny_loras import by_peft_names, fuse, random_pairs
from tiny_pipelines import PIPELINES

SCRIPT = Path(__file__).parents[1] / "stock_generate.py"
LATENTS = {"keep": [0, 2], "fill": "zero"}
WIDTHS: dict[str, tuple[int, ...]] = {
    "stable_diffusion": (4, 8), "stable_diffusion_xl": (4, 8), "stable_diffusion_3": (1, 2),
    "flux": (1, 1), "pixart_sigma": (1, 2), "sana": (1, 2),
}  # fmt: skip


def part_of(pipeline: Any) -> str:
    return "unet" if hasattr(pipeline, "unet") else "transformer"


def predict(denoiser: Any) -> Tensor:
    with torch.no_grad():
        return denoiser(**example_inputs(denoiser, 2, 8), return_dict=False)[0]


def load(folder: Path, file: Path) -> Any:
    """The pruned denoiser with the LoRA, by stock diffusers."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(file)
        return getattr(pipeline, part_of(pipeline))
    tensors = load_file(file)  # diffusers loads none for PixArt: peft does
    layers = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors}
    rank = next(t.shape[0] for name, t in tensors.items() if "lora_A" in name)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(layers))
    adapted = get_peft_model(pipeline.transformer, config)
    loaded = set_peft_model_state_dict(adapted, tensors)
    assert not loaded.unexpected_keys
    return adapted.base_model.model


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_every_narrow_family_is_tried() -> None:
    assert set(PIPELINES) - set(WIDTHS) == {"ldm", "dit", "chroma"}  # without LoRAs, and like Flux


@pytest.fixture
def pipeline(request: pytest.FixtureRequest) -> Any:
    return PIPELINES[request.param]()


CASES = [(name, how) for name in WIDTHS for how in ("latents", "width", "both")]


@pytest.mark.parametrize(("pipeline", "how"), CASES, indirect=["pipeline"])
def test_the_pruned_model_with_the_lora_is_the_pruned_fused_one(
    pipeline: Any, how: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["pipeline"]
    width = {"denoiser_widths": WIDTHS[name], "denoiser_criterion": "random"}
    options: dict[str, Any] = (LATENTS if how != "width" else {}) | (
        width if how != "latents" else {}
    )
    part = part_of(pipeline)
    denoiser = getattr(pipeline, part)
    pairs = random_pairs(denoiser)
    save_file(by_peft_names(pairs, part), tmp_path / "lora.safetensors")
    small = pelap.prune(pipeline, **options)
    small.save(tmp_path / "small")
    found = pelap.adapt(small, tmp_path / "lora.safetensors", tmp_path / "new.safetensors")
    fuse(denoiser, pairs)
    fused: Any = pelap.prune(pipeline, **options).loaded().denoiser
    wanted = predict(fused)
    plain = difference(predict(small.loaded().denoiser), wanted)
    left = difference(predict(load(tmp_path / "small", tmp_path / "new.safetensors")), wanted)
    assert plain > 0.02  # the LoRA does something
    (record,) = found.loras
    assert record.dropped == []
    assert record.num_carried == len(pairs)
    is_fitted = part == "unet" and how != "latents"
    assert record.fitted == (["time_embedding.linear_1"] if is_fitted else [])
    assert left < (0.1 * plain if is_fitted else 1e-5)


def test_a_rotation_and_a_linear_fill_are_carried(tmp_path: Path) -> None:
    pipeline: Any = PIPELINES["stable_diffusion"]()
    pictures = pelap.pictures("photos", size=16)
    analysis = pelap.analyze(pipeline, pictures, num_pictures=16, num_curve=8, num_search=8,
                             learned_steps=0)  # fmt: skip
    pairs = random_pairs(pipeline.unet, match="conv_")
    save_file(by_peft_names(pairs, "unet"), tmp_path / "lora.safetensors")
    small = pelap.prune(pipeline, keep=2, rotate="pca", analysis=analysis)
    small.save(tmp_path / "small")
    found = pelap.adapt(small, tmp_path / "lora.safetensors", tmp_path / "new.safetensors")
    assert found.loras[0].fitted == []
    fuse(pipeline.unet, pairs)
    fused: Any = pelap.prune(pipeline, keep=2, rotate="pca", analysis=analysis).loaded().denoiser
    wanted = predict(fused)
    assert difference(predict(small.loaded().denoiser), wanted) > 0.02
    loaded = load(tmp_path / "small", tmp_path / "new.safetensors")
    assert difference(predict(loaded), wanted) < 1e-5


def test_it_loads_where_there_is_no_pelap(tmp_path: Path) -> None:
    pipeline: Any = PIPELINES["stable_diffusion"]()
    pipeline.save_pretrained(tmp_path / "original")
    lora = tmp_path / "lora.safetensors"
    save_file(by_peft_names(random_pairs(pipeline.unet), "unet"), lora)
    small = pelap.prune(pelap.open_model(tmp_path / "original"), denoiser_widths=(4, 8),
                        denoiser_criterion="magnitude")  # fmt: skip
    small.save(tmp_path / "small")
    found = pelap.adapt(tmp_path / "small", lora, tmp_path / "small_lora.safetensors")
    assert found.loras[0].fitted == ["time_embedding.linear_1"]  # read back from the folder
    plain, drawn = str(tmp_path / "small"), tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), plain, f"{plain}@{tmp_path / 'small_lora.safetensors'}"]
    subprocess.run([*command, str(drawn)], check=True, capture_output=True)
    without, with_lora = json.loads(drawn.read_text())
    assert with_lora["finite"]
    assert with_lora["denoiser_parameters"] > without["denoiser_parameters"]
    assert abs(with_lora["mean"] - without["mean"]) > 1e-4
