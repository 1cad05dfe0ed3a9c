"""UNets of diffusers: how wide and deep their levels can be, and the config fields of that."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from pelap.core.network import Network
from pelap.families.family import (
    Config,
    DenoiserFamily,
    Freedom,
    Inputs,
    LayerList,
    Normal,
    Widths,
    example_timestep,
)
from pelap.families.layout import WidthLayout
from pelap.families.ports import Updates
from pelap.families.unet_layout import unet_layout

LAYERS, TRANSFORMERS = "layers_per_block", "transformer_layers_per_block"
"""Config fields: resnets (with their attention) of a level's way down, one more on its way up, and
transformer blocks of each attention."""


@dataclass(frozen=True)
class Depth:
    """A number of layers that may become smaller."""

    name: str
    field: str
    levels: tuple[int, ...]
    most: int
    """Today's."""


class UNetFamily(DenoiserFamily):
    """A UNet: a smaller one has fewer channels at its levels, and fewer layers."""

    latents_name = "sample"
    can_narrow = True
    depth: ClassVar[tuple[str, ...]] = (LAYERS, TRANSFORMERS)

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

    def freedom(self, denoiser: Network) -> Freedom:
        """The channels of each level, down to a quarter, and the layers of each, down to one."""
        config = denoiser.config
        attends, widths = _attending_levels(config), config["block_out_channels"]
        depths = self.depths(config)
        return Freedom(
            (
                *((*self.narrower(config, i, i in attends), w) for i, w in enumerate(widths)),
                *(tuple(range(1, depth.most + 1)) for depth in depths),
            ),
            (*(f"level {level}" for level in range(len(widths))), *(d.name for d in depths)),
            lambda numbers: self.updates(denoiser, numbers),
            tuple(one != other for one, other in pairwise(widths)),
            tuple(depth.levels for depth in depths),
            spares_first=True,
        )

    @abstractmethod
    def narrower(self, config: Config, level: int, attends: bool) -> list[int]:
        """Channels that a level can have, rising, below today's."""

    @abstractmethod
    def depths(self, config: Config) -> list[Depth]:
        """Numbers of layers above 1."""

    def updates(self, unet: Network, numbers: Widths) -> Updates:
        """Config fields for so many channels by level, and layers; the time embedding stays as
        wide."""
        config = unet.config
        widths = numbers[: len(config["block_out_channels"])]
        updates: Updates = {"block_out_channels": widths}
        if widths[0] != config["block_out_channels"][0] and not config["time_embedding_dim"]:
            updates["time_embedding_dim"] = unet.time_embedding.linear_1.out_features
        counts = numbers[len(widths) :]
        depths = self.depths(config)
        for field in {depth.field: None for depth in depths}:
            before = by_level(config, field)
            after = list(before)
            for depth, count in zip(depths, counts, strict=True):
                for level in depth.levels if depth.field == field else ():
                    after[level] = count
            if tuple(after) != before:
                updates[field] = after[0] if len(set(after)) == 1 else tuple(after)
        return updates

    def layer_lists(self, denoiser: Network, updates: Config) -> list[LayerList]:
        """Those that get shorter. A level begins with its first layer; the last on its way up reads
        what the level above passed down."""
        config: Config = {**denoiser.config, **updates}
        blocks = [*denoiser.down_blocks, *denoiser.up_blocks]
        found = []
        if LAYERS in updates:
            layers = by_level(config, LAYERS)
            for name, block, count in zip(
                _block_names(layers), blocks, (*layers, *(n + 1 for n in layers[::-1])), strict=True
            ):
                lists = tuple(
                    f"{name}.{part}" for part in ("resnets", "attentions") if hasattr(block, part)
                )
                fixed = (0,) if name.startswith("down") else (0, -1)
                if count < len(block.resnets):
                    found.append(LayerList(lists, count, fixed))
        if TRANSFORMERS in updates:
            counts = by_level(config, TRANSFORMERS)
            names = (*_block_names(counts), "mid_block")
            for name, block, count in zip(
                names, (*blocks, denoiser.mid_block), (*counts, *counts[::-1], counts[-1]),
                strict=True,
            ):  # fmt: skip
                for number, attention in enumerate(getattr(block, "attentions", None) or ()):
                    if count < len(getattr(attention, "transformer_blocks", ())):
                        inner = f"{name}.attentions.{number}.transformer_blocks"
                        found.append(LayerList((inner,), count))
        return found

    def layout(self, denoiser: Network) -> WidthLayout:
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


def by_level(config: Config, field: str) -> tuple[int, ...]:
    """A number of layers of each level; one number stands for all of them."""
    value = config[field]
    return (value,) * len(config["block_out_channels"]) if isinstance(value, int) else tuple(value)


def _block_names(levels: Sequence[object]) -> list[str]:
    """Down and up blocks in their order; the up blocks' levels fall."""
    return [f"{way}_blocks.{number}" for way in ("down", "up") for number in range(len(levels))]


def _attending_levels(config: Config) -> set[int]:
    """Levels with attention; the middle block has the width of the last."""
    num_levels = len(config["block_out_channels"])
    down, up = config["down_block_types"], tuple(reversed(config["up_block_types"]))
    found = {level for level in range(num_levels) if "Attn" in down[level] + up[level]}
    has_middle = config["mid_block_type"] is not None and config.get("add_attention", True)
    return found | ({num_levels - 1} if has_middle else set())
