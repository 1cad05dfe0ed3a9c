"""Pipelines that ask more of their denoiser: what pruning accepts runs in stock diffusers, what it
refuses names the way on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxTransformer2DModel,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
)
from PIL import Image
from transformers import CLIPTextModel

from pelap.cli import main
from pelap.core.errors import ModelError
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.models.pipeline_limits import check_latents_free, check_width_free
from tiny_pipelines import (
    autoencoder_kl,
    autoencoder_kl_shifted,
    clip_config,
    clip_tokenizer,
    made,
    t5,
    t5_tokenizer,
    unet_with_text,
)

LATENTS = ["--keep", "0,2"]
WIDTH = ["--denoiser-macs", "0.8", "--denoiser-criterion", "magnitude"]
PICTURE = Image.new("RGB", (16, 16), (200, 50, 50))
MASK = Image.new("L", (16, 16), 255)


def stable_diffusion(kind: type[DiffusionPipeline], in_channels: int = 4, **parts: Any) -> Any:
    """A pipeline of Stable Diffusion's parts and more."""
    return made(
        kind,
        **{"unet": unet_with_text(in_channels=in_channels)} | parts,
        vae=autoencoder_kl(),
        text_encoder=CLIPTextModel(clip_config(width=16, projection=8)),
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def with_controlnet() -> Any:
    """Stable Diffusion and a ControlNet of its UNet."""
    unet = unet_with_text()
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8))
    return stable_diffusion(StableDiffusionControlNetPipeline, unet=unet, controlnet=controlnet)


def with_adapter() -> Any:
    """Stable Diffusion and a T2I adapter, whose features are as wide as the UNet's."""
    unet = unet_with_text(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"))
    adapter = T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    return stable_diffusion(StableDiffusionAdapterPipeline, unet=unet, adapter=adapter)


def flux(kind: type[DiffusionPipeline], in_channels: int) -> Any:
    """Flux whose denoiser takes more than the four latent channels in 2×2 patches."""
    transformer = FluxTransformer2DModel(
        in_channels=in_channels, out_channels=16, num_layers=1, num_single_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16,
        pooled_projection_dim=8, guidance_embeds=True, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    return made(
        kind,
        vae=autoencoder_kl_shifted(),
        transformer=transformer,
        text_encoder=CLIPTextModel(clip_config(width=8, projection=8)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "inpainting": lambda: stable_diffusion(StableDiffusionInpaintPipeline, 9),
    "inpainting with 4": lambda: stable_diffusion(StableDiffusionInpaintPipeline),
    "instruct": lambda: stable_diffusion(StableDiffusionInstructPix2PixPipeline, 8),
    "fill": lambda: flux(FluxFillPipeline, 16 + 16 + 4 * 4),  # latents, picture, mask
    "control": lambda: flux(FluxControlPipeline, 2 * 16),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "inpainting": {"image": PICTURE, "mask_image": MASK, "height": 16, "width": 16},
    "inpainting with 4": {"image": PICTURE, "mask_image": MASK, "height": 16, "width": 16},
    "instruct": {"image": PICTURE},
    "fill": {"image": PICTURE, "mask_image": MASK, "height": 16, "width": 16},
    "control": {"control_image": PICTURE, "height": 16, "width": 16},
}
LAYERS = {
    "inpainting": "9 input channels of unet.conv_in",
    "inpainting with 4": "4 input channels of unet.conv_in",
    "instruct": "8 input channels of unet.conv_in",
    "fill": "48 input channels of transformer.x_embedder",
    "control": "32 input channels of transformer.x_embedder",
}


def draw(folder: Path, arguments: dict[str, Any]) -> torch.Tensor:
    """A picture (3, 16, 16), or (16, 16, 3) of the oldest, of the stock pipeline's own call."""
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a", num_inference_steps=2, output_type="pt", **arguments).images
    return torch.as_tensor(images[0])


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()  # of what came before
    assert main(list(words)) == 2
    found = capsys.readouterr().err.strip()
    assert found.startswith("pelap: ")
    assert "\n" not in found
    return found


@pytest.mark.parametrize("name", BUILDERS)
def test_fixed_inputs_keep_their_latents_and_run_when_narrower(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    BUILDERS[name]().save_pretrained(tmp_path / "model")
    command = ("prune", str(tmp_path / "model"), "--output", str(tmp_path / "small"))
    line = refusal(capsys, *command, *LATENTS)
    assert LAYERS[name] in line
    assert "--denoiser-macs" in line
    assert refusal(capsys, *command, *LATENTS, *WIDTH) == line
    assert not (tmp_path / "small").exists()
    assert main([*command, *WIDTH]) == 0
    original: Any = open_model(tmp_path / "model").denoiser
    small: Any = open_model(tmp_path / "small").denoiser
    assert small.config.in_channels == original.config.in_channels
    assert small.num_parameters() < original.num_parameters()
    picture = draw(tmp_path / "small", ARGUMENTS[name])
    assert picture.shape == (3, 16, 16)
    assert torch.isfinite(picture).all()


def test_nothing_is_removed_beside_a_controlnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with_controlnet().save_pretrained(tmp_path / "model")
    command = ("prune", str(tmp_path / "model"), "--output", str(tmp_path / "small"))
    for options in (LATENTS, WIDTH, [*LATENTS, *WIDTH]):
        line = refusal(capsys, *command, *options)
        assert "pipeline's controlnet" in line
        assert "save it without its controlnet" in line
    assert not (tmp_path / "small").exists()


def test_a_controlnet_in_memory_is_refused_too_and_without_it_both_are_free():
    pipeline = with_controlnet()
    model = open_model(pipeline)
    with pytest.raises(ModelError, match="reads all 4 latent channels"):
        check_latents_free(model)
    with pytest.raises(ModelError, match="adds features to unet's"):
        check_width_free(model)
    parts = {name: part for name, part in pipeline.components.items() if name != "controlnet"}
    plain = open_model(made(StableDiffusionPipeline, **parts, requires_safety_checker=False))
    check_latents_free(plain)
    check_width_free(plain)
    check_latents_free(LoadedModel("alone", autoencoder_kl()))


@pytest.mark.filterwarnings("ignore:The decode_latents method is deprecated:FutureWarning")
def test_beside_an_adapter_latents_are_removed_and_the_width_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with_adapter().save_pretrained(tmp_path / "model")
    command = ("prune", str(tmp_path / "model"), "--output", str(tmp_path / "small"))
    line = refusal(capsys, *command, *WIDTH)
    assert "pipeline's adapter adds features to unet's" in line
    assert "--keep" in line
    assert main([*command, *LATENTS]) == 0
    picture = draw(tmp_path / "small", {"image": PICTURE, "height": 16, "width": 16})
    assert torch.isfinite(picture).all()
