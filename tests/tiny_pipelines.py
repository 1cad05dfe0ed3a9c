"""Stock diffusers pipelines made of tiny random networks, one function each.

Text encoders and tokenizers are left out where diffusers loads a saved pipeline without them. The
other pipelines get tiny ones, whose vocabulary is the alphabet.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = 64  # an upper bound on every vocabulary below
WORDS = 16  # the longest prompt
Built = TypeVar("Built")


def made(kind: Callable[..., Built], **arguments: Any) -> Built:
    """Call a class of diffusers, which takes more than its annotations say."""
    return kind(**arguments)


def seeded(build: Callable[[], DiffusionPipeline]) -> Callable[[], DiffusionPipeline]:
    """The same builder with fixed weights, none of them constant, and no trace on torch's seed."""

    def build_seeded() -> DiffusionPipeline:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipeline = build()
            for part in pipeline.components.values():
                if isinstance(part, nn.Module):
                    shake_constants(part)
        return pipeline

    build_seeded.__name__, build_seeded.__doc__ = build.__name__, build.__doc__
    return build_seeded


@torch.no_grad()
def shake_constants(network: nn.Module) -> None:
    """Add noise to every parameter that starts as one repeated value, such as a zero bias."""
    for parameter in network.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            parameter += 0.1 * torch.randn_like(parameter)


def autoencoder_kl(channels: int = 4, **more: Any) -> AutoencoderKL:
    """An autoencoder that halves the picture."""
    return made(
        AutoencoderKL,
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, norm_num_groups=4,
        sample_size=16, **{"scaling_factor": 0.5} | more,
    )  # fmt: skip


def autoencoder_kl_shifted(channels: int = 4) -> AutoencoderKL:
    """An autoencoder with a shift and without the 1×1 convolutions around the latent."""
    return autoencoder_kl(
        channels, scaling_factor=1.5, shift_factor=0.1, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip


def autoencoder_dc() -> AutoencoderDC:
    """A deep-compression autoencoder, whose ends copy groups of channels past the convolutions."""
    return made(
        AutoencoderDC,
        latent_channels=4, attention_head_dim=4, scaling_factor=0.5,
        encoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), decoder_block_out_channels=(8, 16),
        decoder_layers_per_block=(1, 1), decoder_qkv_multiscales=((), (5,)),
    )  # fmt: skip


def unet_with_text(**more: Any) -> UNet2DConditionModel:
    """A U-Net that reads prompt embeddings."""
    return made(
        UNet2DConditionModel,
        sample_size=8, out_channels=4, layers_per_block=1, cross_attention_dim=16,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{
            "in_channels": 4, "attention_head_dim": 4, "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        } | more,
    )  # fmt: skip


def clip_config(width: int, projection: int) -> CLIPTextConfig:
    """The shape of a tiny CLIP text encoder."""
    return CLIPTextConfig(
        vocab_size=TOKENS, hidden_size=width, intermediate_size=width, projection_dim=projection,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=WORDS,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows letters only."""
    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{x}</w>" for x in LETTERS)]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=WORDS
    )


def t5() -> T5EncoderModel:
    """A tiny T5 text encoder, 16 wide."""
    return T5EncoderModel(
        T5Config(vocab_size=TOKENS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer that knows letters only."""
    tokens = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return T5Tokenizer(
        vocab=[(token, 0.0) for token in tokens], extra_ids=0, model_max_length=WORDS
    )


def gemma() -> Gemma2Model:
    """A tiny Gemma 2 text encoder, 16 wide."""
    return Gemma2Model(
        Gemma2Config(
            vocab_size=TOKENS, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )
    )  # fmt: skip


def gemma_tokenizer() -> GemmaTokenizer:
    """A Gemma tokenizer that knows letters only."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    return GemmaTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])


@seeded
def ldm() -> DiffusionPipeline:
    """Latent diffusion without a condition."""
    unet = UNet2DModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1, norm_num_groups=4,
        attention_head_dim=4,
    )  # fmt: skip
    return made(
        LDMPipeline, vqvae=autoencoder_kl(), unet=unet, scheduler=DDIMScheduler(clip_sample=False)
    )


@seeded
def stable_diffusion() -> DiffusionPipeline:
    """Stable Diffusion 1 and 2."""
    return made(
        StableDiffusionPipeline,
        vae=autoencoder_kl(), unet=unet_with_text(),
        text_encoder=CLIPTextModel(clip_config(width=16, projection=8)), tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@seeded
def stable_diffusion_xl() -> DiffusionPipeline:
    """Stable Diffusion XL: the U-Net also reads a pooled embedding, of width 8, and sizes."""
    unet = unet_with_text(
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4,
    )  # fmt: skip
    return made(
        StableDiffusionXLPipeline,
        vae=autoencoder_kl(), text_encoder=None, text_encoder_2=None, tokenizer=None,
        tokenizer_2=None, unet=unet, scheduler=EulerDiscreteScheduler(),
    )  # fmt: skip


@seeded
def stable_diffusion_3() -> DiffusionPipeline:
    """Stable Diffusion 3, with eight latent channels."""
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=8, out_channels=8, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16,
        joint_attention_dim=16, pooled_projection_dim=8, pos_embed_max_size=4,
    )  # fmt: skip
    clip = clip_config(width=8, projection=4)
    return StableDiffusion3Pipeline(
        vae=autoencoder_kl_shifted(8), transformer=transformer,
        text_encoder=CLIPTextModelWithProjection(clip), tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(), tokenizer_3=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


@seeded
def flux() -> DiffusionPipeline:
    """Flux, which packs 2×2 latent pixels of four channels into sixteen."""
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=8,
        guidance_embeds=True, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    return FluxPipeline(
        vae=autoencoder_kl_shifted(), transformer=transformer,
        text_encoder=CLIPTextModel(clip_config(width=8, projection=8)),
        tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


@seeded
def chroma() -> DiffusionPipeline:
    """Chroma, which packs like Flux and reads T5 alone."""
    transformer = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 2, 2),
        approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1,
    )  # fmt: skip
    return ChromaPipeline(
        vae=autoencoder_kl_shifted(), transformer=transformer, text_encoder=t5(),
        tokenizer=t5_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


@seeded
def dit() -> DiffusionPipeline:
    """DiT, which also predicts a variance; its pipeline insists on a thousand classes."""
    transformer = DiTTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, patch_size=2, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return made(
        DiTPipeline,
        transformer=transformer,
        vae=autoencoder_kl(),
        scheduler=DDIMScheduler(clip_sample=False),
    )


@seeded
def pixart_sigma() -> DiffusionPipeline:
    """PixArt-Σ, which also predicts a variance."""
    transformer = PixArtTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=8, patch_size=2, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, cross_attention_dim=16, caption_channels=16,
        use_additional_conditions=False,
    )  # fmt: skip
    return made(
        PixArtSigmaPipeline,
        vae=autoencoder_kl(), transformer=transformer, text_encoder=None, tokenizer=None,
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip


@seeded
def sana() -> DiffusionPipeline:
    """Sana, whose latent is twice as large, as its pipeline draws multiples of 32 pixels."""
    transformer = SanaTransformer2DModel(
        sample_size=16, in_channels=4, out_channels=4, patch_size=1, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, cross_attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_dim=16, caption_channels=16,
    )  # fmt: skip
    return SanaPipeline(
        vae=autoencoder_dc(), transformer=transformer, text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )  # fmt: skip


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "ldm": ldm,
    "stable_diffusion": stable_diffusion,
    "stable_diffusion_xl": stable_diffusion_xl,
    "stable_diffusion_3": stable_diffusion_3,
    "flux": flux,
    "chroma": chroma,
    "dit": dit,
    "pixart_sigma": pixart_sigma,
    "sana": sana,
}
