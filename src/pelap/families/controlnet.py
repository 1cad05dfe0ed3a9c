"""ControlNets of UNets: copies of a UNet's first half whose outputs are added to its skips."""

from pelap.core.network import Network

KIND = "ControlNetModel"
SHARED_FIELDS = (
    "in_channels", "block_out_channels", "down_block_types", "mid_block_type", "layers_per_block",
    "attention_head_dim", "num_attention_heads", "transformer_layers_per_block",
    "cross_attention_dim", "norm_num_groups",
)  # fmt: skip
"""Of its config, which must be those of the UNet that it controls."""
CONDITION_OUT = "controlnet_cond_embedding.conv_out"
"""The last layer that sees only the picture; what it gives is added to what `conv_in` gives."""
CONV_IN = "conv_in"
MID = "controlnet_mid_block"
MID_OUTPUT = "mid_block.resnets.0.conv2"
DOWN = "controlnet_down_blocks"


def skip_layers(controlnet: Network) -> list[str]:
    """Layers whose output has the features of each skip, in the order of `controlnet_down_blocks`.

    Args:
        controlnet: Of class `ControlNetModel`; its layers are named as the UNet's.
    """
    names = [CONV_IN]
    for number, block in enumerate(controlnet.down_blocks):
        names += [f"down_blocks.{number}.resnets.{n}.conv2" for n in range(len(block.resnets))]
        if block.downsamplers is not None:
            names.append(f"down_blocks.{number}.downsamplers.0.conv")
    return names
