"""The layout of diffusers' UNets: found by walking the network as its forward pass does."""

import math
from dataclasses import replace

from torch import nn

from pelap.core.errors import ModelError
from pelap.core.network import Network
from pelap.families.layout import Stream, WidthLayout

BLOCKS = (
    "DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D",
    "CrossAttnUpBlock2D", "UNetMidBlock2D", "UNetMidBlock2DCrossAttn",
)  # fmt: skip


def unet_layout(unet: Network) -> WidthLayout:
    """Groups of a UNet of diffusers.

    Every resnet's inner channels are a group of their own. A residual stream is one group from the
    layer that begins it (an input, down- or upsampling convolution, or a resnet with a shortcut
    convolution) to the next such layer. Skip connections carry their groups to the concatenation.

    Raises:
        ModelError: If it has blocks that are not known here.
    """
    blocks = (*unet.down_blocks, *unet.up_blocks, *([unet.mid_block] if unet.mid_block else []))
    for block in blocks:
        if type(block).__name__ not in BLOCKS:
            raise ModelError(
                f"The width of a denoiser with {type(block).__name__} cannot be pruned: known are "
                f"{', '.join(BLOCKS)}."
            )
    if unet.config["time_embedding_type"] != "positional":
        raise ModelError("The width can be pruned where time_embedding_type is positional only.")
    walk = _Walk(unet)
    walk.through()
    walk.layout.check((name, weight.shape) for name, weight in unet.state_dict().items())
    return walk.layout


class _Walk:
    """One pass over the modules, carrying the stream."""

    def __init__(self, unet: Network):
        self.unet = unet
        self.layout = WidthLayout()
        self.num_parts = unet.config["norm_num_groups"] or 1
        self.heads_narrow = unet.config["attention_head_dim"] is None

    def through(self) -> None:
        """Fill the layout, from the first layer to the last."""
        unet, layout = self.unet, self.layout
        stream = self._channels("conv_in", unet.conv_in.out_channels)
        layout.layer(unet.conv_in, "conv_in", None, stream)
        skips = [stream]
        for number, block in enumerate(unet.down_blocks):
            stream = self._down(f"down_blocks.{number}", block, stream, skips)
            layout.features[f"down_blocks.{number}"] = skips[-1]
        if unet.mid_block is not None:
            stream = self._middle("mid_block", unet.mid_block, stream)
            layout.features["mid_block"] = stream
        for number, block in enumerate(unet.up_blocks):
            stream = self._up(f"up_blocks.{number}", block, stream, skips)
            layout.features[f"up_blocks.{number}"] = stream
        if unet.conv_norm_out is not None:
            layout.norm("conv_norm_out", stream)
        layout.layer(unet.conv_out, "conv_out", stream, None)

    def _channels(self, name: str, size: int) -> Stream:
        return self.layout.add(name, size, parts=self.num_parts)

    def _down(self, name: str, block: Network, stream: Stream, skips: list[Stream]) -> Stream:
        for index, resnet in enumerate(block.resnets):
            stream = self._resnet(f"{name}.resnets.{index}", resnet, stream)
            self._attention_at(name, block, index, stream)
            skips.append(stream)
        for index, sampler in enumerate(getattr(block, "downsamplers", None) or []):
            stream = self._sampler(f"{name}.downsamplers.{index}", sampler, stream)
            skips.append(stream)
        return stream

    def _middle(self, name: str, block: Network, stream: Stream) -> Stream:
        for index, resnet in enumerate(block.resnets):
            if index:
                self._attention_at(name, block, index - 1, stream)
            stream = self._resnet(f"{name}.resnets.{index}", resnet, stream)
        return stream

    def _up(self, name: str, block: Network, stream: Stream, skips: list[Stream]) -> Stream:
        for index, resnet in enumerate(block.resnets):
            stream = self._resnet(f"{name}.resnets.{index}", resnet, stream + skips.pop())
            self._attention_at(name, block, index, stream)
        for index, sampler in enumerate(getattr(block, "upsamplers", None) or []):
            stream = self._sampler(f"{name}.upsamplers.{index}", sampler, stream)
        return stream

    def _resnet(self, name: str, resnet: Network, stream: Stream) -> Stream:
        layout = self.layout
        inner = self._channels(f"{name}.inner", resnet.conv1.out_channels)
        layout.norm(f"{name}.norm1", stream)
        layout.layer(resnet.conv1, f"{name}.conv1", stream, inner)
        if resnet.time_emb_proj is not None:
            times = 2 if resnet.time_embedding_norm == "scale_shift" else 1
            layout.layer(resnet.time_emb_proj, f"{name}.time_emb_proj", None, inner * times)
        layout.norm(f"{name}.norm2", inner)
        outputs = stream
        if resnet.conv_shortcut is not None:
            outputs = self._channels(name, resnet.conv2.out_channels)
            layout.layer(resnet.conv_shortcut, f"{name}.conv_shortcut", stream, outputs)
        layout.layer(resnet.conv2, f"{name}.conv2", inner, outputs)
        return outputs

    def _sampler(self, name: str, sampler: Network, stream: Stream) -> Stream:
        if hasattr(sampler, "conv1"):  # a resnet that samples
            return self._resnet(name, sampler, stream)
        if not isinstance(sampler.conv, nn.Conv2d):
            return stream
        outputs = self._channels(name, sampler.conv.out_channels)
        self.layout.layer(sampler.conv, f"{name}.conv", stream, outputs)
        return outputs

    def _attention_at(self, name: str, block: Network, index: int, stream: Stream) -> None:
        attentions = getattr(block, "attentions", None)
        if attentions is None or attentions[index] is None:
            return
        attention, path = attentions[index], f"{name}.attentions.{index}"
        if hasattr(attention, "transformer_blocks"):
            self._transformer(path, attention, stream)
            return
        if attention.group_norm is not None:
            self._split_further(stream, attention.group_norm.num_groups)
            self.layout.norm(f"{path}.group_norm", stream)
        self._attention(path, attention, stream, stream)

    def _split_further(self, stream: Stream, num_groups: int) -> None:
        """Let whole groups of another norm stay too."""
        for name in stream:
            group = self.layout.groups[name]
            parts = math.lcm(group.parts, num_groups)
            self.layout.groups[name] = replace(group, parts=parts)

    def _attention(
        self, name: str, attention: Network, stream: Stream, keys: Stream | None
    ) -> None:
        layout, size = self.layout, attention.to_q.out_features
        if self.heads_narrow:  # one head, as wide as its level
            queries = layout.add(f"{name}.queries", size)
            values = layout.add(f"{name}.values", size)
            layout.rescaled[f"{name}.to_q.weight"] = queries[0]
            if attention.to_q.bias is not None:
                layout.rescaled[f"{name}.to_q.bias"] = queries[0]
        else:
            queries = values = layout.add(f"{name}.heads", size, size // attention.heads)
        layout.layer(attention.to_q, f"{name}.to_q", stream, queries)
        layout.layer(attention.to_k, f"{name}.to_k", keys, queries)
        layout.layer(attention.to_v, f"{name}.to_v", keys, values)
        layout.layer(attention.to_out[0], f"{name}.to_out.0", values, stream)

    def _transformer(self, name: str, transformer: Network, stream: Stream) -> None:
        layout = self.layout
        layout.norm(f"{name}.norm", stream)
        inner = layout.add(f"{name}.inner", transformer.inner_dim)
        layout.layer(transformer.proj_in, f"{name}.proj_in", stream, inner)
        for number, block in enumerate(transformer.transformer_blocks):
            self._transformer_block(f"{name}.transformer_blocks.{number}", block, inner)
        layout.layer(transformer.proj_out, f"{name}.proj_out", inner, stream)

    def _transformer_block(self, name: str, block: Network, inner: Stream) -> None:
        if hasattr(block, "fuser"):
            raise ModelError(f"The width of a denoiser with {name}.fuser cannot be pruned.")
        layout = self.layout
        layout.norm(f"{name}.norm1", inner)
        own = None if block.only_cross_attention else inner
        self._attention(f"{name}.attn1", block.attn1, inner, own)
        if block.attn2 is not None:
            layout.norm(f"{name}.norm2", inner)
            own = inner if block.double_self_attention else None
            self._attention(f"{name}.attn2", block.attn2, inner, own)
        layout.norm(f"{name}.norm3", inner)
        first, last = block.ff.net[0].proj, block.ff.net[2]
        hidden = layout.add(f"{name}.hidden", last.in_features)
        times = first.out_features // last.in_features
        layout.layer(first, f"{name}.ff.net.0.proj", inner, hidden * times)
        layout.layer(last, f"{name}.ff.net.2", hidden, inner)
