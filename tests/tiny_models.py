"""Tiny random models of every class that can be pruned, and how each is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from pelap.method.paper_autoencoder import PaperAutoencoder
from pelap.method.paper_denoiser import PaperUNet

SIDE = 8
"""Of the latents."""


def randomize(model: nn.Module, seed: int = 0) -> Any:
    """Give every parameter and statistic a value that hides nothing: no zeros, no ones."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2 or parameter.std() < 1e-3:
                parameter += 0.2 * torch.randn(parameter.shape, generator=source)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += torch.randn(buffer.shape, generator=source)
            if name.endswith("running_var"):
                buffer += torch.rand(buffer.shape, generator=source)
    return model.eval()


def _kl(**extra: Any) -> nn.Module:
    build: Any = diffusers.AutoencoderKL  # takes longer tuples than it says
    return build(
        latent_channels=6, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **extra,
    )  # fmt: skip


AUTOENCODERS: dict[str, Callable[[], nn.Module]] = {
    "kl": _kl,
    "kl_shifted_without_quant": lambda: _kl(
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.3, scaling_factor=1.5
    ),
    "kl_with_statistics": lambda: _kl(
        latents_mean=[0.1, -0.2, 0.3, 0.0, 0.5, -0.4], latents_std=[1.0, 2.0, 0.5, 1.5, 0.7, 1.2]
    ),
    "asymmetric": lambda: diffusers.AsymmetricAutoencoderKL(
        latent_channels=6, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, down_block_out_channels=(8, 16),
        up_block_types=("UpDecoderBlock2D",) * 2, up_block_out_channels=(8, 16),
    ),
    "tiny": lambda: diffusers.AutoencoderTiny(
        latent_channels=6, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ),
    "dc": lambda: diffusers.AutoencoderDC(
        latent_channels=6, attention_head_dim=8, encoder_block_out_channels=(12, 24),
        decoder_block_out_channels=(12, 24), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.41,
    ),
    "flux2": lambda: diffusers.AutoencoderKLFlux2(
        latent_channels=6, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ),
    "paper": lambda: PaperAutoencoder(latent_channels=6, base_channels=8),
}  # fmt: skip


@dataclass(frozen=True)
class TinyDenoiser:
    """How to build and call one. `call` maps latents (B, C, h, w) to (B, C or 2C, h, w)."""

    build: Callable[[int], nn.Module]
    call: Callable[[nn.Module, Tensor], Tensor]
    num_channels: int = 6


def _unet_2d(channels: int) -> nn.Module:
    return diffusers.UNet2DModel(
        sample_size=SIDE, in_channels=channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def _unet_condition(channels: int, in_channels: int) -> nn.Module:
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE, in_channels=in_channels, out_channels=channels, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=4, cross_attention_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def _text(latents: Tensor, width: int = 8) -> Tensor:
    source = torch.Generator().manual_seed(1)
    return torch.randn(len(latents), 5, width, generator=source)


def _time(latents: Tensor) -> Tensor:
    return torch.full((len(latents),), 7)


def _call_unet(model: Any, latents: Tensor) -> Tensor:
    return model(latents, 7).sample


def _call_condition(model: Any, latents: Tensor) -> Tensor:
    return model(latents, 7, encoder_hidden_states=_text(latents)).sample


def _call_inpainting(model: Any, latents: Tensor) -> Tensor:
    mask = torch.ones_like(latents[:, :1])
    inputs = torch.cat([latents, mask, 0.5 * latents.flip(0)], dim=1)
    return _call_condition(model, inputs)


def _call_dit(model: Any, latents: Tensor) -> Tensor:
    labels = torch.arange(len(latents)) % 3
    return model(latents, timestep=_time(latents), class_labels=labels).sample


def _call_pixart(model: Any, latents: Tensor) -> Tensor:
    return model(
        latents, encoder_hidden_states=_text(latents), timestep=_time(latents),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample  # fmt: skip


def _call_sd3(model: Any, latents: Tensor) -> Tensor:
    return model(
        latents, encoder_hidden_states=_text(latents), pooled_projections=_text(latents)[:, 0],
        timestep=_time(latents),
    ).sample  # fmt: skip


def pack(latents: Tensor) -> Tensor:
    """Flux' 2×2 packing: (B, C, h, w) → (B, h/2·w/2, 4C), as its pipeline writes it."""
    size, channels, height, width = latents.shape
    return diffusers.FluxPipeline._pack_latents(latents, size, channels, height, width)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack` for square latents of side SIDE."""
    return diffusers.FluxPipeline._unpack_latents(packed, SIDE * 8, SIDE * 8, 8)


def _call_flux(model: Any, latents: Tensor, **others: Tensor) -> Tensor:
    packed = pack(latents)
    ids = torch.zeros(packed.shape[1], 3)
    ids[:, 1] = torch.arange(packed.shape[1])
    out = model(
        packed, encoder_hidden_states=_text(latents), timestep=_time(latents) / 1000, img_ids=ids,
        txt_ids=torch.zeros(5, 3), **others or {"pooled_projections": _text(latents)[:, 0]},
    ).sample  # fmt: skip
    return unpack(out)


def _call_chroma(model: Any, latents: Tensor) -> Tensor:
    mask = torch.ones(len(latents), 5 + (SIDE // 2) ** 2)
    mask[:, 3:5] = 0
    return _call_flux(model, latents, attention_mask=mask)


def _call_sana(model: Any, latents: Tensor) -> Tensor:
    text = _text(latents)
    return model(latents, encoder_hidden_states=text, timestep=_time(latents)).sample


_HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}

DENOISERS: dict[str, TinyDenoiser] = {
    "unet_2d": TinyDenoiser(_unet_2d, _call_unet),
    "unet_condition": TinyDenoiser(lambda c: _unet_condition(c, c), _call_condition),
    "unet_inpainting": TinyDenoiser(lambda c: _unet_condition(c, 2 * c + 1), _call_inpainting),
    "dit": TinyDenoiser(
        lambda c: diffusers.DiTTransformer2DModel(
            in_channels=c, out_channels=2 * c, sample_size=SIDE, patch_size=2,
            num_embeds_ada_norm=3, norm_num_groups=4, **_HEADS,
        ),
        _call_dit,
    ),
    "pixart": TinyDenoiser(
        lambda c: diffusers.PixArtTransformer2DModel(
            in_channels=c, out_channels=2 * c, sample_size=SIDE, patch_size=2, caption_channels=8,
            cross_attention_dim=16, norm_num_groups=4, use_additional_conditions=False, **_HEADS,
        ),
        _call_pixart,
    ),
    "sd3": TinyDenoiser(
        lambda c: diffusers.SD3Transformer2DModel(
            sample_size=SIDE, patch_size=2, in_channels=c, out_channels=c, num_layers=2,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8,
            caption_projection_dim=16, pooled_projection_dim=8, pos_embed_max_size=SIDE,
        ),
        _call_sd3,
    ),
    "flux": TinyDenoiser(
        lambda c: diffusers.FluxTransformer2DModel(
            in_channels=4 * c, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=8,
            axes_dims_rope=(2, 2, 4),
        ),
        _call_flux,
    ),
    "chroma": TinyDenoiser(
        lambda c: diffusers.ChromaTransformer2DModel(
            in_channels=4 * c, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1,
        ),
        _call_chroma,
    ),
    "sana": TinyDenoiser(
        lambda c: diffusers.SanaTransformer2DModel(
            in_channels=c, out_channels=c, sample_size=SIDE, patch_size=1, caption_channels=8,
            num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
            **_HEADS,
        ),
        _call_sana,
    ),
    "paper": TinyDenoiser(lambda c: PaperUNet(c, 8, 8), _call_unet),
}  # fmt: skip
