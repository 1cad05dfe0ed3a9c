"""Sana, diffusers' SanaTransformer2DModel."""

from pelap.families.family import TEXT_LENGTH, Config, Inputs, Normal
from pelap.families.ports import DenoiserPorts, Port, Updates
from pelap.families.transformer import (
    ADALN_SINGLE,
    CAPTION,
    CONTEXT,
    CROSS_ATTENTION,
    FEED_FORWARD,
    OUTPUT,
    PATCH_EMBEDDING,
    STREAM,
    TransformerFamily,
    embedders,
)


class SanaFamily(TransformerFamily):
    """A flow with linear attention, attention to text, and convolutions in its feed-forward."""

    class_name = "SanaTransformer2DModel"
    ports = DenoiserPorts(Port("patch_embed.proj"), Port("proj_out"))
    has_float_timesteps = True
    rules = (
        *PATCH_EMBEDDING,
        *CAPTION,
        (r"caption_norm\.weight", {0: CONTEXT}),
        *embedders(STREAM),
        *ADALN_SINGLE,
        *CROSS_ATTENTION,
        *FEED_FORWARD,
        *OUTPUT,
    )

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents, timestep and text; guidance for Sana-Sprint."""
        inputs = super().example_inputs(config, side, normal)
        inputs["encoder_hidden_states"] = normal(TEXT_LENGTH, config["caption_channels"])
        if config.get("guidance_embeds"):
            inputs["guidance"] = normal()
        return inputs

    def updates(self, config: Config, num_heads: int, num_layers: int | None = None) -> Updates:
        """Also the width of the text, which is that of the stream, and heads that attend to it."""
        updates = super().updates(config, num_heads, num_layers)
        before = config["num_attention_heads"]
        if num_heads != before:
            updates["cross_attention_dim"] = num_heads * config["attention_head_dim"]
        cross = config["num_cross_attention_heads"] * num_heads // before
        return updates | {"num_cross_attention_heads": max(1, cross)}


FAMILIES = (SanaFamily(),)
