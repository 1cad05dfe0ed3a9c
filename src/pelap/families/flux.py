"""Flux.1, diffusers' FluxTransformer2DModel."""

from typing import ClassVar

import torch

from pelap.core.network import Network
from pelap.families.family import (
    TEXT_LENGTH,
    Config,
    Inputs,
    LayerList,
    Normal,
    example_timestep,
)
from pelap.families.packing import Packing
from pelap.families.ports import DenoiserPorts, Port, Updates
from pelap.families.transformer import (
    ATTENTION,
    COND,
    FEED_FORWARD,
    MODULATION,
    OUTPUT,
    SINGLE_BLOCK,
    STREAM,
    Rules,
    TransformerFamily,
    embedders,
    joint_text,
)

EMBEDDING: Rules = ((r"x_embedder\.(weight|bias)", {0: STREAM}),)
NUM_TIMESTEPS = 1000


class FluxFamily(TransformerFamily):
    """A flow whose latents come as tokens of 2×2 patches, each with its place, and whose text joins
    the picture's sequence behind the first blocks."""

    class_name = "FluxTransformer2DModel"
    packing = Packing(2)
    ports = DenoiserPorts(Port("x_embedder", inner=4), Port("proj_out", inner=4))
    shared_inputs = ("img_ids", "txt_ids")
    has_float_timesteps = True
    timestep_divisor = NUM_TIMESTEPS
    streams = (STREAM,)
    depth: ClassVar[tuple[str, ...]] = ("num_layers", "num_single_layers")
    rules = (
        *EMBEDDING,
        *joint_text(STREAM),
        *embedders(COND),
        *MODULATION,
        *ATTENTION,
        *FEED_FORWARD,
        *SINGLE_BLOCK,
        *OUTPUT,
    )

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Tokens, timestep, text, pooled text and places; guidance for those that take it."""
        rows = side // 2
        hidden = normal(rows * rows, config["in_channels"])
        inputs = {
            "hidden_states": hidden,
            "timestep": example_timestep(hidden) / NUM_TIMESTEPS,
            "encoder_hidden_states": normal(TEXT_LENGTH, config["joint_attention_dim"]),
            "pooled_projections": normal(config["pooled_projection_dim"]),
            **example_places(rows, hidden),
        }
        if config.get("guidance_embeds"):
            inputs["guidance"] = normal()
        return inputs

    def updates(
        self,
        config: Config,
        num_heads: int,
        num_layers: int | None = None,
        num_single_layers: int | None = None,
    ) -> Updates:
        """Also the number of single blocks."""
        updates = super().updates(config, num_heads, num_layers)
        singles = config["num_single_layers"] if num_single_layers is None else num_single_layers
        return updates | {"num_single_layers": singles}

    def layer_lists(self, denoiser: Network, updates: Config) -> list[LayerList]:
        """Also the single blocks."""
        found = super().layer_lists(denoiser, updates)
        if not found:
            return []
        singles = updates.get("num_single_layers", denoiser.config["num_single_layers"])
        return [*found, LayerList(("single_transformer_blocks",), singles)]


def example_places(rows: int, like: torch.Tensor) -> Inputs:
    """Row and column of each of the tokens (rows², 3), and of the text's (TEXT_LENGTH, 3), which
    all stand at 0."""
    places = torch.zeros(rows, rows, 3, device=like.device, dtype=like.dtype)
    places[..., 1] += torch.arange(rows, device=like.device)[:, None]
    places[..., 2] += torch.arange(rows, device=like.device)
    return {
        "img_ids": places.view(rows * rows, 3),
        "txt_ids": torch.zeros(TEXT_LENGTH, 3, device=like.device, dtype=like.dtype),
    }


FAMILIES = (FluxFamily(),)
