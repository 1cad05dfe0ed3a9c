"""What a denoiser takes, with random values: to count, time, trace and export it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pelap.core.errors import ModelError

TEXT_LENGTH = 77
LATENT_SIDE = 32
"""Where the config names no `sample_size`."""

Inputs = dict[str, Any]


def example_inputs(
    denoiser: nn.Module, num_pictures: int = 1, side: int | None = None, seed: int = 0
) -> Inputs:
    """Keyword arguments of `denoiser.forward`, on its device and in its precision.

    Latents, timestep and every condition that its config asks for: text, classes, sizes, positions.
    The latents come first. Flux takes them packed, (B, h·w/4, 4C).

    Args:
        denoiser: Of a class in DENOISER_PORTS.
        num_pictures: B.
        side: Height and width of the latents; by default what the model was made for.
        seed: Of the random values.

    Raises:
        ModelError: If the class is unknown.
    """
    name = type(denoiser).__name__
    if name not in _MAKERS:
        raise ModelError(f"The denoiser {name} is not supported; known are {', '.join(_MAKERS)}.")
    parameter = next(denoiser.parameters())
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(num_pictures, *shape, generator=source)
        return values.to(parameter.device, parameter.dtype)

    config: Any = denoiser.config
    return _MAKERS[name](config, side or latent_side(denoiser), normal)


def latent_side(denoiser: nn.Module) -> int:
    """Height and width of the latents that a denoiser was made for."""
    config: Any = denoiser.config
    found = config.get("sample_size")
    return found if isinstance(found, int) else LATENT_SIDE


def _timestep(latents: Tensor) -> Tensor:
    return torch.full((len(latents),), 500, device=latents.device)


def _unet(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    channels = config.get("in_channels") or config["latent_channels"]
    sample = normal(channels, side, side)
    inputs = {"sample": sample, "timestep": _timestep(sample)}
    if config.get("num_class_embeds"):
        inputs["class_labels"] = torch.zeros(len(sample), dtype=torch.long, device=sample.device)
    return inputs


def _unet_condition(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    width = config["cross_attention_dim"]
    if not isinstance(width, int):
        width = width[0]
    text_width = config.get("encoder_hid_dim") or width
    inputs = _unet(config, side, normal)
    inputs["encoder_hidden_states"] = normal(TEXT_LENGTH, text_width)
    if config.get("addition_embed_type") == "text_time":
        sizes = 6 * config["addition_time_embed_dim"]
        pooled = config["projection_class_embeddings_input_dim"] - sizes
        inputs["added_cond_kwargs"] = {"text_embeds": normal(pooled), "time_ids": normal(6)}
    return inputs


def _transformer(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    hidden = normal(config["in_channels"], side, side)
    return {"hidden_states": hidden, "timestep": _timestep(hidden)}


def _dit(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    inputs = _transformer(config, side, normal)
    labels = torch.zeros(len(inputs["timestep"]), dtype=torch.long)
    return inputs | {"class_labels": labels.to(inputs["timestep"].device)}


def _pixart(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    more: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if config.get("use_additional_conditions") or (
        config.get("use_additional_conditions") is None and side == 128
    ):
        more = {"resolution": normal(2), "aspect_ratio": normal(1)}
    text = normal(TEXT_LENGTH, config["caption_channels"])
    return _transformer(config, side, normal) | {
        "encoder_hidden_states": text,
        "added_cond_kwargs": more,
    }


def _sana(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    inputs = _transformer(config, side, normal)
    inputs["encoder_hidden_states"] = normal(TEXT_LENGTH, config["caption_channels"])
    if config.get("guidance_embeds"):
        inputs["guidance"] = normal()
    return inputs


def _sd3(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    return _transformer(config, side, normal) | {
        "encoder_hidden_states": normal(TEXT_LENGTH, config["joint_attention_dim"]),
        "pooled_projections": normal(config["pooled_projection_dim"]),
    }


def _flux(config: Any, side: int, normal: Callable[..., Tensor]) -> Inputs:
    rows = side // 2
    hidden = normal(rows * rows, config["in_channels"])
    places = torch.zeros(rows, rows, 3, device=hidden.device, dtype=hidden.dtype)
    places[..., 1] += torch.arange(rows, device=hidden.device)[:, None]
    places[..., 2] += torch.arange(rows, device=hidden.device)
    inputs = {
        "hidden_states": hidden,
        "timestep": _timestep(hidden) / 1000,
        "encoder_hidden_states": normal(TEXT_LENGTH, config["joint_attention_dim"]),
        "pooled_projections": normal(config["pooled_projection_dim"]),
        "img_ids": places.view(rows * rows, 3),
        "txt_ids": torch.zeros(TEXT_LENGTH, 3, device=hidden.device, dtype=hidden.dtype),
    }
    if config.get("guidance_embeds"):
        inputs["guidance"] = normal()
    return inputs


_MAKERS: dict[str, Callable[[Any, int, Callable[..., Tensor]], Inputs]] = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _unet_condition,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
    "SanaTransformer2DModel": _sana,
    "PaperUNet": _unet,
}
