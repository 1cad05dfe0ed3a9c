"""Chroma, diffusers' ChromaTransformer2DModel: Flux with one small network for all modulations."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pelap.core.network import Network
from pelap.families.family import TEXT_LENGTH, Config, Inputs, Normal, example_timestep
from pelap.families.flux import EMBEDDING, NUM_TIMESTEPS, FluxFamily, example_places
from pelap.families.ports import Updates
from pelap.families.transformer import (
    ATTENTION,
    FEED_FORWARD,
    OUTPUT,
    SINGLE_BLOCK,
    STREAM,
    joint_text,
)


class ChromaFamily(FluxFamily):
    """Takes no pooled text and no guidance, but says which of the text's tokens count.

    A block's modulation follows from its place among all blocks, without a weight that could move
    along with it: so its depth stays.
    """

    class_name = "ChromaTransformer2DModel"
    depth: ClassVar[tuple[str, ...]] = ()
    rules = (
        *EMBEDDING,
        (r"distilled_guidance_layer\.out_proj\..*", {0: STREAM}),
        *joint_text(STREAM),
        *ATTENTION,
        *FEED_FORWARD,
        *SINGLE_BLOCK,
        *OUTPUT,
    )

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Tokens, timestep, text and places, and a mask that shows all of text and picture."""
        rows = side // 2
        hidden = normal(rows * rows, config["in_channels"])
        return {
            "hidden_states": hidden,
            "timestep": example_timestep(hidden) / NUM_TIMESTEPS,
            "encoder_hidden_states": normal(TEXT_LENGTH, config["joint_attention_dim"]),
            **example_places(rows, hidden),
            "attention_mask": hidden.new_ones(len(hidden), TEXT_LENGTH + rows * rows),
        }

    def traceable(self, denoiser: nn.Module) -> nn.Module:
        """With an embedding that does not write the number of pictures into the graph."""
        found: Any = copy.copy(denoiser)
        found._modules = dict(denoiser._modules)
        found.time_text_embed = _TraceableEmbedding(found.time_text_embed)
        return found

    def updates(
        self,
        config: Config,
        num_heads: int,
        num_layers: int | None = None,
        num_single_layers: int | None = None,
    ) -> Updates:
        """Its heads alone."""
        return {"num_attention_heads": num_heads}


class _TraceableEmbedding(nn.Module):
    """diffusers' embedding of timestep and block number, which makes a list of zeros as long as the
    batch: with a tensor in its place.

    Args:
        embedding: diffusers'.
    """

    def __init__(self, embedding: Network):
        super().__init__()
        self.embedding = embedding

    def forward(self, timestep: Tensor) -> Tensor:
        """(B, num_modulations, features) of timesteps (B,)."""
        numbers = self.embedding.mod_proj.to(timestep)  # (num_modulations, features / 2)
        time = self.embedding.time_proj(timestep).to(timestep)  # (B, features / 4)
        guidance = self.embedding.guidance_proj(torch.zeros_like(timestep)).to(timestep)
        of_picture = torch.cat([time, guidance], dim=1)[:, None].expand(-1, numbers.shape[0], -1)
        of_block = numbers.expand(timestep.shape[0], -1, -1)  # len() would be a constant
        return torch.cat([of_picture, of_block], dim=-1)


FAMILIES = (ChromaFamily(),)
