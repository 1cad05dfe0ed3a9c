"""DiT (arXiv 2212.09748), diffusers' DiTTransformer2DModel, and what runs here train as `dit`."""

from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from torch import nn

from pelap.config.run_checks import MOST_CLASSES
from pelap.config.run_config import NetworkConfig
from pelap.families.family import Config, Inputs, Normal
from pelap.families.ports import DenoiserPorts, Port
from pelap.families.transformer import (
    ATTENTION,
    BLOCK,
    FEED_FORWARD,
    OUTPUT,
    PATCH_EMBEDDING,
    STREAM,
    TransformerFamily,
)

HEAD_CHANNELS = 64
"""Of a run's transformer: as wide as is usual, since attention's cost on a CPU goes with their
number."""


class DiTFamily(TransformerFamily):
    """Takes classes; each block embeds timestep and class anew, the output takes the first's."""

    class_name = "DiTTransformer2DModel"
    ports = DenoiserPorts(Port("pos_embed.proj"), Port("proj_out_2"))
    stock_pipeline = "DiTPipeline"
    rules = (
        *PATCH_EMBEDDING,
        (rf"{BLOCK}\.norm1\.emb\.timestep_embedder\.linear_1\..*", {0: "{block}.time"}),
        (
            rf"{BLOCK}\.norm1\.emb\.timestep_embedder\.linear_2\..*",
            {0: "{block}.condition", 1: "{block}.time"},
        ),
        (rf"{BLOCK}\.norm1\.emb\.class_embedder\..*", {1: "{block}.condition"}),
        (rf"{BLOCK}\.norm1\.linear\..*", {0: STREAM, 1: "{block}.condition"}),
        *ATTENTION,
        *FEED_FORWARD,
        (r"proj_out_1\..*", {0: STREAM, 1: "transformer_blocks.0.condition"}),
        *OUTPUT,
    )

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents, timestep and the first class."""
        inputs = super().example_inputs(config, side, normal)
        return inputs | {"class_labels": torch.zeros_like(inputs["timestep"])}

    def none_class(self, config: Config) -> int | None:
        """The one behind the last."""
        return config["num_embeds_ada_norm"]


FAMILIES = (DiTFamily(),)


def build_dit(config: NetworkConfig, latent_size: int) -> DiTTransformer2DModel:
    """A run's transformer with the initial weights of its paper, for latents of that side."""
    channels = config.latent_channels
    transformer = DiTTransformer2DModel(
        num_attention_heads=config.denoiser_channels // HEAD_CHANNELS,
        attention_head_dim=HEAD_CHANNELS,
        in_channels=channels,
        out_channels=channels,  # DiTPipeline computes with it
        num_layers=config.denoiser_layers,
        sample_size=latent_size,
        patch_size=config.patch_size,
        num_embeds_ada_norm=MOST_CLASSES,
    )
    begin_as_identity(transformer)
    return transformer


def begin_as_identity(transformer: DiTTransformer2DModel) -> None:
    """The initial weights of DiT (Peebles and Xie, arXiv 2212.09748): blocks begin as identities.

    diffusers leaves torch's, with which training is slower.
    """
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    for module in transformer.modules():  # again: modules come before the layers inside them
        if isinstance(module, TimestepEmbedding):
            nn.init.normal_(module.linear_1.weight, std=0.02)
            nn.init.normal_(module.linear_2.weight, std=0.02)
    blocks: Any = transformer.transformer_blocks
    for layer in (
        *(block.norm1.linear for block in blocks),
        transformer.proj_out_1,
        transformer.proj_out_2,
    ):
        nn.init.zeros_(layer.weight)
