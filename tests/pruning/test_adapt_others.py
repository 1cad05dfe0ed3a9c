"""ControlNets and IP-Adapters of the original, carried to what was pruned from it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from diffusers.models.adapter import T2IAdapter
from diffusers.models.controlnets.controlnet import ControlNetModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import pelap
from pelap.cli import main
from pelap.families.registry import example_inputs
from pelap.models.kept_units import take_units
from pelap.models.opening import open_model
from tiny_pipelines import PIPELINES, unet_with_text

WAYS: dict[str, dict[str, Any]] = {
    "latents": {"keep": [0, 2], "fill": "zero"},
    "second level": {"denoiser_widths": (8, 12), "denoiser_criterion": "magnitude"},
    "width": {"denoiser_widths": (4, 8), "denoiser_criterion": "magnitude"},
}
NAMES = ("stable_diffusion", "stable_diffusion_xl")
CASES = [(way, name) for way in WAYS for name in NAMES]
CONTROLLED = [case for case in CASES if case != ("width", "stable_diffusion_xl")]
"""Of the last the time embedding is in the way."""
SIZE = 16


def make_controlnet(unet: Any) -> ControlNetModel:
    """A copy of the UNet's first half whose own layers say something."""
    torch.manual_seed(1)
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4))
    with torch.no_grad():
        for name, weight in controlnet.named_parameters():
            if name.startswith("controlnet_"):
                weight.copy_(0.1 * torch.randn_like(weight))
    return controlnet.eval()


@pytest.fixture
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    pipeline = PIPELINES[request.param]()
    pipeline.save_pretrained(tmp_path / "original")
    return pipeline


def told(pipeline: Any) -> dict[str, Any]:
    """A prompt, or what stands for one where there is no text encoder."""
    if pipeline.text_encoder is not None:
        return {"prompt": "hello"}
    rows = {"prompt_embeds": torch.ones(1, 4, 16), "pooled_prompt_embeds": torch.ones(1, 8)}
    return rows | {f"negative_{name}": torch.zeros_like(value) for name, value in rows.items()}


def residuals(controlnet: Any, inputs: dict[str, Any], picture: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = controlnet(**inputs, controlnet_cond=picture, return_dict=False)
    return [*found[0], found[1]]


def inputs_of(unet: Any) -> dict[str, Any]:
    """Two latents, timesteps and what is told."""
    return dict(example_inputs(unet, 2, 8))


@pytest.mark.parametrize(("way", "original"), CONTROLLED, indirect=["original"])
def test_a_carried_controlnet_adds_what_the_original_would(way: str, original: Any, tmp_path: Path):
    make_controlnet(original.unet).save_pretrained(tmp_path / "canny")
    small = pelap.prune(open_model(tmp_path / "original"), **WAYS[way])
    small.save(tmp_path / "small")
    output = tmp_path / "small_canny"
    command = ["adapt", str(tmp_path / "small"), "--controlnet", str(tmp_path / "canny")]
    assert main([*command, "--output", str(output)]) == 0
    record = json.loads((output / "adapted.json").read_text())
    assert record["dropped"] == []
    carried: Any = ControlNetModel.from_pretrained(output)
    full: Any = ControlNetModel.from_pretrained(tmp_path / "canny")
    unet: Any = open_model(tmp_path / "small").denoiser
    assert carried.config["block_out_channels"] == unet.config["block_out_channels"]

    narrow_inputs, picture = inputs_of(unet), torch.rand(2, 3, SIZE, SIZE)
    found = residuals(carried, narrow_inputs, picture)
    if way == "latents":
        wide = torch.zeros(2, 4, 8, 8)
        wide[:, [0, 2]] = narrow_inputs["sample"]
        expected = residuals(full, narrow_inputs | {"sample": wide}, picture)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
        return
    # in its copy of the UNet's layers each feature is the one that the narrow UNet itself has
    features: dict[str, list[Tensor]] = {"unet": [], "controlnet": []}
    for name, network in (("unet", unet), ("controlnet", carried)):
        for block in network.down_blocks:
            block.register_forward_hook(
                lambda _module, _inputs, output, name=name: features[name].append(output[0])
            )
    with torch.no_grad():
        for weight in carried.controlnet_cond_embedding.parameters():
            weight.zero_()
        unet(**narrow_inputs)
    residuals(carried, narrow_inputs, picture)
    pairs = zip(features["unet"], features["controlnet"], strict=True)
    if way == "width":  # tiny embeddings of time, two frequencies, cannot be told by one
        assert 0 < record["time_difference"] < 1
    else:
        assert record["time_difference"] == 0
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    units = open_model(tmp_path / "small").kept_units
    assert units is not None
    kept = units.layers["down_blocks.1.resnets.0.conv2"].outputs
    last = carried.controlnet_down_blocks[-1].weight
    whole = full.controlnet_down_blocks[-1].weight
    assert torch.equal(last, take_units(take_units(whole, 0, kept), 1, kept))


@pytest.mark.parametrize(("way", "original"), CONTROLLED, indirect=["original"])
def test_the_stock_pipeline_runs_with_it(way: str, original: Any, tmp_path: Path):
    make_controlnet(original.unet).save_pretrained(tmp_path / "canny")
    small = pelap.prune(open_model(tmp_path / "original"), **WAYS[way])
    small.save(tmp_path / "small")
    adapted = pelap.adapt(small, controlnet=tmp_path / "canny", output=tmp_path / "small_canny")
    assert adapted.controlnet is not None
    is_xl = "XL" in type(original).__name__
    kind: Any = StableDiffusionXLControlNetPipeline if is_xl else StableDiffusionControlNetPipeline
    controlnet = ControlNetModel.from_pretrained(tmp_path / "small_canny")
    pipeline = kind.from_pretrained(tmp_path / "small", controlnet=controlnet)
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    for scale in (0.0, 1.0):
        drawn += pipeline(
            **told(pipeline), image=Image.new("RGB", (SIZE, SIZE), "red"), num_inference_steps=2,
            controlnet_conditioning_scale=scale, height=SIZE, width=SIZE, output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
    assert not torch.equal(drawn[0], drawn[1])


def test_a_narrower_time_embedding_says_nearly_the_same(tmp_path: Path):
    torch.manual_seed(0)
    unet = unet_with_text(block_out_channels=(64, 128), norm_num_groups=8)
    pipeline: Any = PIPELINES["stable_diffusion"]()
    slow = torch.exp(-torch.arange(32) / 32 * math.log(10_000)) < 0.05  # radians a timestep
    with torch.no_grad():  # as in trained models, what is said of neighbours is nearly the same
        unet.time_embedding.linear_1.weight.mul_(slow.repeat(2).float())
    pipeline.register_modules(unet=unet)
    pipeline.save_pretrained(tmp_path / "original")
    make_controlnet(unet).save_pretrained(tmp_path / "canny")
    way = {"denoiser_widths": (32, 128), "denoiser_criterion": "magnitude"}
    small = pelap.prune(open_model(tmp_path / "original"), **way)
    found = pelap.adapt(small, controlnet=tmp_path / "canny", output=tmp_path / "out").controlnet
    assert found is not None
    assert 0 < found.time_difference < 1e-3  # docs/adapters.md says how much


def test_what_is_not_carried_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pipeline: Any = PIPELINES["stable_diffusion"]()
    pipeline.save_pretrained(tmp_path / "original")
    pelap.prune(open_model(tmp_path / "original"), keep=[0, 2]).save(tmp_path / "small")
    T2IAdapter(channels=[8, 16], num_res_blocks=1).save_pretrained(tmp_path / "t2i")
    other = ControlNetModel(
        block_out_channels=(8, 8), down_block_types=("DownBlock2D",) * 2, norm_num_groups=4,
        cross_attention_dim=8, layers_per_block=1, conditioning_embedding_out_channels=(4, 4),
    )  # fmt: skip
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    cases = {
        "t2i": "T2IAdapter, which is not carried: its layers (body)",
        "other": "is a ControlNet of another model than original",
        "empty": "holds no config.json",
        "nowhere": "is no folder",
    }
    capsys.readouterr()
    for name, reason in cases.items():
        command = ["adapt", str(tmp_path / "small"), "--controlnet", str(tmp_path / name)]
        assert main([*command, "--output", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert reason in said
        assert not (tmp_path / "out").exists()
    assert main(["adapt", str(tmp_path / "small"), "--output", str(tmp_path / "out")]) == 2
    assert "Give one of --lora FILE" in capsys.readouterr().err


@pytest.mark.parametrize("original", ["stable_diffusion_xl"], indirect=True)
def test_a_time_embedding_that_sees_the_text_is_in_the_way(
    original: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_controlnet(original.unet).save_pretrained(tmp_path / "canny")
    small = pelap.prune(open_model(tmp_path / "original"), **WAYS["width"])
    small.save(tmp_path / "small")
    command = ["adapt", str(tmp_path / "small"), "--controlnet", str(tmp_path / "canny")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "add_embedding, which sees the text" in capsys.readouterr().err


def make_ip_adapter(unet: Any, path: Path, dim: int = 6) -> dict[str, Tensor]:
    """Random projections of a picture's embedding (dim,), four tokens."""
    torch.manual_seed(2)
    cross = unet.config["cross_attention_dim"]
    cross = cross if isinstance(cross, int) else cross[0]
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * cross, dim),
        "image_proj.proj.bias": torch.zeros(4 * cross),
        "image_proj.norm.weight": torch.ones(cross),
        "image_proj.norm.bias": torch.zeros(cross),
    }
    layers = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(layers):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part, layer in (("k", attention.to_k), ("v", attention.to_v)):
            weight = torch.randn_like(layer.weight)
            tensors[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = weight
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize(("way", "original"), CASES, indirect=["original"])
def test_a_carried_ip_adapter_loads_in_stock_diffusers(way: str, original: Any, tmp_path: Path):
    tensors = make_ip_adapter(original.unet, tmp_path / "ip.safetensors")
    small = pelap.prune(open_model(tmp_path / "original"), **WAYS[way])
    small.save(tmp_path / "small")
    target = tmp_path / "small_ip.safetensors"
    adapted = pelap.adapt(small, ip_adapter=tmp_path / "ip.safetensors", output=target)
    assert adapted.ip_adapter is not None
    assert adapted.ip_adapter.num_carried == sum("to_k_ip" in name for name in tensors)
    found, units = load_file(target), open_model(tmp_path / "small").kept_units
    assert units is not None
    first = next(name for name in units.layers if name.endswith("attn2.to_v"))
    expected = take_units(tensors["ip_adapter.1.to_v_ip.weight"], 0, units.layers[first].outputs)
    assert torch.equal(found["ip_adapter.1.to_v_ip.weight"], expected)
    pipeline: Any = DiffusionPipeline.from_pretrained(tmp_path / "small")
    pipeline.load_ip_adapter(
        tmp_path, subfolder="", weight_name=target.name, image_encoder_folder=None
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    for scale in (0.0, 1.0):
        pipeline.set_ip_adapter_scale(scale)
        drawn += pipeline(
            **told(pipeline), ip_adapter_image_embeds=[torch.ones(2, 1, 6)], num_inference_steps=2,
            height=SIZE, width=SIZE, output_type="pt", guidance_scale=2.0,
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
    assert not torch.equal(drawn[0], drawn[1])


def test_files_that_are_no_ip_adapter_of_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pipeline: Any = PIPELINES["stable_diffusion"]()
    pipeline.save_pretrained(tmp_path / "original")
    pelap.prune(open_model(tmp_path / "original"), keep=[0, 2]).save(tmp_path / "small")
    whole = make_ip_adapter(pipeline.unet, tmp_path / "ip.safetensors")
    key = "ip_adapter.1.to_k_ip.weight"
    broken = {
        "another model": whole | {key: torch.zeros(3, 8)},
        "to_k_ip.weight of down_blocks": {n: t for n, t in whole.items() if n != key},
        "image_proj is missing": {n: t for n, t in whole.items() if "image_proj" not in n},
        "is no part of an IP-Adapter": whole
        | {"ip_adapter.0.to_q_lora.down.weight": whole[key].clone()},
        "not finite": whole | {key: whole[key] / 0},
    }
    capsys.readouterr()
    for reason, tensors in broken.items():
        save_file(tensors, tmp_path / "odd.safetensors")
        command = ["adapt", str(tmp_path / "small"), "--ip-adapter"]
        command += [str(tmp_path / "odd.safetensors"), "--output", str(tmp_path / "o.safetensors")]
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert reason in said
