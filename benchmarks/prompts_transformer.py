"""A small PixArt-α that draws the pictures of shapes.py as told; prompts_model.py trains it."""

from typing import Any

from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from shapes import SIZE, WORDS

LONGEST = 8
"""Tokens of a caption, with the one behind it."""
TEXT_WIDTH, HEADS, HEAD_WIDTH, LAYERS = 64, 8, 16, 8


def make_transformer(autoencoder: Any, scheduler: Any) -> PixArtAlphaPipeline:
    """Eight layers of width 128 over 64 tokens, a T5 encoder of two; random weights."""
    words = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS)]
    tokenizer = T5Tokenizer(
        vocab=[(word, 0.0) for word in words], extra_ids=0, model_max_length=LONGEST
    )
    text = T5Config(
        vocab_size=len(words), d_model=TEXT_WIDTH, d_kv=16, d_ff=4 * TEXT_WIDTH,
        num_layers=2, num_heads=4, dropout_rate=0.0,
    )  # fmt: skip
    channels = autoencoder.config.latent_channels
    transformer = PixArtTransformer2DModel(
        sample_size=SIZE // 4, patch_size=1, in_channels=channels, out_channels=channels,
        num_layers=LAYERS, num_attention_heads=HEADS, attention_head_dim=HEAD_WIDTH,
        cross_attention_dim=HEADS * HEAD_WIDTH, caption_channels=TEXT_WIDTH,
        use_additional_conditions=False,
    )  # fmt: skip
    return PixArtAlphaPipeline(tokenizer, T5EncoderModel(text), autoencoder, transformer, scheduler)


def predict_with_transformer(
    pipeline: Any, tokens: Any, told: Tensor, noisy: Tensor, timesteps: Tensor
) -> Tensor:
    """The noise of (B, C, 8, 8) under the captions numbered `told`."""
    words = pipeline.text_encoder(tokens.input_ids, tokens.attention_mask)[0][told]  # (B, L, 64)
    return pipeline.transformer(
        noisy,
        encoder_hidden_states=words,
        encoder_attention_mask=tokens.attention_mask[told],
        timestep=timesteps,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
