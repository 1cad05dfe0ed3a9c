"""diffusers' UNet2DConditionModel: Stable Diffusion 1, 2 and XL, and their inpainting variants."""

import math

from pelap.core.errors import ModelError
from pelap.core.network import Network
from pelap.families.family import TEXT_LENGTH, Config, Inputs, Normal, Widths
from pelap.families.ports import DenoiserPorts, Port, Updates
from pelap.families.unet import LAYERS, TRANSFORMERS, Depth, UNetFamily, by_level

TOLD_WITHOUT_PICTURES = {
    "addition_embed_type": ("text", "text_time"),
    "encoder_hid_dim_type": ("text_proj",),
}
"""Fields of its config that say what it is told beside text, and their values that are known."""


class UNet2DConditionFamily(UNetFamily):
    """A UNet that attends to text; XL also takes a pooled text and sizes."""

    class_name = "UNet2DConditionModel"
    # inpainting: latents, mask, latents of the picture around the hole
    ports = DenoiserPorts(Port("conv_in", takes_others=True), Port("conv_out"))

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents, timestep and text; pooled text and sizes for XL."""
        self.check(config)
        width = config["cross_attention_dim"]
        if not isinstance(width, int):
            width = width[0]
        text_width = config.get("encoder_hid_dim") or width
        inputs = super().example_inputs(config, side, normal)
        inputs["encoder_hidden_states"] = normal(TEXT_LENGTH, text_width)
        if config.get("addition_embed_type") == "text_time":
            sizes = 6 * config["addition_time_embed_dim"]
            pooled = config["projection_class_embeddings_input_dim"] - sizes
            inputs["added_cond_kwargs"] = {"text_embeds": normal(pooled), "time_ids": normal(6)}
        return inputs

    def check(self, config: Config) -> None:
        """Also refuse one that is told of a picture.

        Raises:
            ModelError: Names the field of its config.
        """
        super().check(config)
        for field, known in TOLD_WITHOUT_PICTURES.items():
            if config.get(field) not in (None, *known):
                raise ModelError(
                    f"The denoiser's {field} is {config[field]}, which is not supported: known are "
                    f"{', '.join(known)}."
                )

    def narrower(self, config: Config, level: int, attends: bool) -> list[int]:
        """Multiples of the norms' groups, and of a head's width where it attends."""
        step, width = config["norm_num_groups"], config["block_out_channels"][level]
        if attends:
            step = math.lcm(step, width // _heads(config)[level])
        return [value for value in range(step, width, step) if value >= width // 4]

    def depths(self, config: Config) -> list[Depth]:
        """Layers of each level, and transformer blocks where it attends to text; none where the
        way up has numbers of its own."""
        per_attention = config.get(TRANSFORMERS) or 1
        nested = not isinstance(per_attention, int) and any(
            not isinstance(value, int) for value in per_attention
        )
        if nested or config.get("reverse_transformer_layers_per_block") is not None:
            return []
        found = [
            Depth(f"layers of level {level}", LAYERS, (level,), layers)
            for level, layers in enumerate(by_level(config, LAYERS))
        ]
        attends = [str(name).startswith("CrossAttn") for name in config["down_block_types"]]
        for level, blocks in enumerate(by_level(config, TRANSFORMERS)):
            if attends[level]:
                name = f"transformer blocks of level {level}"
                found.append(Depth(name, TRANSFORMERS, (level,), blocks))
        return [depth for depth in found if depth.most > 1]

    def updates(self, unet: Network, numbers: Widths) -> Updates:
        """Also the number of heads by level, each of which stays as wide."""
        config, heads = unet.config, _heads(unet.config)
        found = super().updates(unet, numbers)
        changes = tuple(
            max(1, new * count // old)
            for new, old, count in zip(numbers, config["block_out_channels"], heads, strict=False)
        )
        return found if changes == heads else found | {"attention_head_dim": changes}


def _heads(config: Config) -> tuple[int, ...]:
    """Heads by level, which the class calls `attention_head_dim`."""
    heads = config["attention_head_dim"]
    return (heads,) * len(config["block_out_channels"]) if isinstance(heads, int) else tuple(heads)


FAMILIES = (UNet2DConditionFamily(),)
