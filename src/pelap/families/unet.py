"""UNets of diffusers: which widths their levels can have, and the config fields of those."""

from abc import abstractmethod
from itertools import pairwise
from typing import Any

from torch import Tensor

from pelap.families.family import (
    MAX_STEPS,
    Config,
    DenoiserFamily,
    Freedom,
    Inputs,
    Normal,
    Widths,
    example_timestep,
    spread,
)
from pelap.families.layout import WidthLayout
from pelap.families.ports import Updates
from pelap.families.unet_layout import unet_layout


class UNetFamily(DenoiserFamily):
    """A UNet: a smaller one has fewer channels at its levels."""

    latents_name = "sample"
    can_narrow = True

    def latents_obstacle(self, config: Config) -> str | None:
        """Latents that are stretched and shifted in front of the first convolution."""
        if config.get("center_input_sample"):
            return "center_input_sample, which makes -1 of a latent channel that is 0"
        return None

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents, timestep, and a class where it takes one."""
        sample = normal(config["in_channels"], side, side)
        inputs = {"sample": sample, "timestep": example_timestep(sample)}
        labels = _example_labels(config, inputs["timestep"], normal)
        return inputs if labels is None else inputs | {"class_labels": labels}

    def freedom(self, denoiser: Any) -> Freedom:
        """The channels of each level, down to a quarter."""
        config = denoiser.config
        attends, options = _attending_levels(config), []
        for level, width in enumerate(config["block_out_channels"]):
            values = self.narrower(config, level, level in attends)
            options.append((*spread(values)[-MAX_STEPS + 1 :], width))
        return Freedom(
            tuple(options),
            tuple(f"level {level}" for level in range(len(options))),
            lambda widths: self.updates(denoiser, widths),
            tuple(one != other for one, other in pairwise(config["block_out_channels"])),
        )

    @abstractmethod
    def narrower(self, config: Config, level: int, attends: bool) -> list[int]:
        """Channels that a level can have, rising, below today's."""

    def updates(self, unet: Any, widths: Widths) -> Updates:
        """Config fields for so many channels by level; the time embedding stays as wide."""
        config = unet.config
        updates: Updates = {"block_out_channels": widths}
        if widths[0] != config["block_out_channels"][0] and not config["time_embedding_dim"]:
            updates["time_embedding_dim"] = unet.time_embedding.linear_1.out_features
        return updates

    def layout(self, denoiser: Any) -> WidthLayout:
        """See `unet_layout`."""
        return unet_layout(denoiser)


def _example_labels(config: Config, timesteps: Tensor, normal: Normal) -> Tensor | None:
    """What stands for a class: a label or a number (B,), or an embedding (B, D); None for none."""
    kind = config.get("class_embed_type")
    if kind in ("projection", "simple_projection"):
        return normal(config["projection_class_embeddings_input_dim"])
    if kind == "identity":
        return normal(config.get("time_embedding_dim") or 4 * config["block_out_channels"][0])
    takes = kind == "timestep" or (kind is None and config.get("num_class_embeds"))
    return timesteps.new_zeros(len(timesteps)) if takes else None


def _attending_levels(config: Config) -> set[int]:
    """Levels with attention; the middle block has the width of the last."""
    num_levels = len(config["block_out_channels"])
    down, up = config["down_block_types"], tuple(reversed(config["up_block_types"]))
    found = {level for level in range(num_levels) if "Attn" in down[level] + up[level]}
    has_middle = config["mid_block_type"] is not None and config.get("add_attention", True)
    return found | ({num_levels - 1} if has_middle else set())
