"""Stable Diffusion 3 and 3.5, diffusers' SD3Transformer2DModel."""

from pelap.core.errors import ModelError
from pelap.families.family import TEXT_LENGTH, Config, Inputs, Layers, Normal
from pelap.families.ports import DenoiserPorts, Port, Updates
from pelap.families.transformer import (
    ATTENTION,
    COND,
    CONTEXT,
    FEED_FORWARD,
    MODULATION,
    OUTPUT,
    PATCH_EMBEDDING,
    TransformerFamily,
    embedders,
    joint_text,
)


class SD3Family(TransformerFamily):
    """A flow whose text has a stream of its own; some layers of 3.5 attend to the picture twice."""

    class_name = "SD3Transformer2DModel"
    ports = DenoiserPorts(Port("pos_embed.proj"), Port("proj_out"))
    has_float_timesteps = True
    rules = (
        *PATCH_EMBEDDING,
        *joint_text(CONTEXT),
        *embedders(COND),
        *MODULATION,
        *ATTENTION,
        *FEED_FORWARD,
        *OUTPUT,
    )

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents, timestep, text and pooled text."""
        return super().example_inputs(config, side, normal) | {
            "encoder_hidden_states": normal(TEXT_LENGTH, config["joint_attention_dim"]),
            "pooled_projections": normal(config["pooled_projection_dim"]),
        }

    def largest_side(self, config: Config) -> int:
        """As many patches as it has positions."""
        return config["pos_embed_max_size"] * config["patch_size"]

    def updates(self, config: Config, num_heads: int, num_layers: int | None = None) -> Updates:
        """Also the text's width, and of the layers that attend twice those that there are still."""
        updates = super().updates(config, num_heads, num_layers)
        if num_heads != config["num_attention_heads"]:
            updates["caption_projection_dim"] = num_heads * config["attention_head_dim"]
        dual = config.get("dual_attention_layers")
        if dual:
            updates["dual_attention_layers"] = tuple(
                layer for layer in dual if num_layers is None or layer < num_layers
            )
        return updates

    def coarser(self, config: Config, times: int) -> Updates:
        """Also as many fewer positions to crop from."""
        most = config["pos_embed_max_size"]
        if most % times:
            raise ModelError(
                f"The tokens of this {self.class_name} cannot be made fewer: its "
                f"pos_embed_max_size {most} is odd."
            )
        return super().coarser(config, times) | {"pos_embed_max_size": most // times}

    def depth_updates(self, config: Config, updates: Config, kept: Layers) -> Updates:
        """Also which of the kept layers attend twice, by their new numbers."""
        found = super().depth_updates(config, updates, kept)
        dual = config.get("dual_attention_layers")
        if dual:
            numbers = enumerate(kept["transformer_blocks"])
            found["dual_attention_layers"] = tuple(new for new, old in numbers if old in dual)
        return found


FAMILIES = (SD3Family(),)
