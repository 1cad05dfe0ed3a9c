"""PixArt-α and -Σ, diffusers' PixArtTransformer2DModel."""

from torch import Tensor

from pelap.core.errors import ModelError
from pelap.core.network import Network
from pelap.families.family import TEXT_LENGTH, Config, Inputs, Normal
from pelap.families.layout import WidthLayout
from pelap.families.ports import DenoiserPorts, Port, Updates
from pelap.families.transformer import (
    ADALN_SINGLE,
    CAPTION,
    CROSS_ATTENTION,
    FEED_FORWARD,
    OUTPUT,
    PATCH_EMBEDDING,
    STREAM,
    TransformerFamily,
    embedders,
)

LARGEST_SIDE = 128
"""Latents so large come with their picture's size and shape, unless the config says otherwise."""


class PixArtFamily(TransformerFamily):
    """Attends to text; one modulation serves all blocks."""

    class_name = "PixArtTransformer2DModel"
    ports = DenoiserPorts(Port("pos_embed.proj"), Port("proj_out"))
    rules = (
        *PATCH_EMBEDDING,
        *CAPTION,
        *embedders(STREAM),
        *ADALN_SINGLE,
        *CROSS_ATTENTION,
        *FEED_FORWARD,
        *OUTPUT,
    )

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents, timestep and text; the picture's size and shape where it takes them."""
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        takes_sizes = config.get("use_additional_conditions")
        if takes_sizes or (takes_sizes is None and side == LARGEST_SIDE):
            sizes = {"resolution": normal(2), "aspect_ratio": normal(1)}
        text = normal(TEXT_LENGTH, config["caption_channels"])
        return super().example_inputs(config, side, normal) | {
            "encoder_hidden_states": text,
            "added_cond_kwargs": sizes,
        }

    def updates(self, config: Config, num_heads: int, num_layers: int | None = None) -> Updates:
        """Also the width of the text, which is that of the stream."""
        updates = super().updates(config, num_heads, num_layers)
        if num_heads != config["num_attention_heads"]:
            updates["cross_attention_dim"] = num_heads * config["attention_head_dim"]
        return updates

    def coarser(self, config: Config, times: int) -> Updates:
        """The class's own scale of positions where the config says none."""
        scale = config.get("interpolation_scale") or max(config["sample_size"] // 64, 1)
        return super().coarser({**config, "interpolation_scale": scale}, times)

    def layout(self, denoiser: Network) -> WidthLayout:
        """As for every transformer, without embedded picture sizes, whose parts stand in a row."""
        if any("resolution_embedder" in name for name in denoiser.state_dict()):
            raise ModelError(
                "The width of a transformer with use_additional_conditions cannot be pruned."
            )
        return super().layout(denoiser)


FAMILIES = (PixArtFamily(),)
