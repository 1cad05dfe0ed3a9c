"""Diffusion transformers of diffusers: the names of weights that they share, as tables of rules.

A family's rules say what lies on the axes of each weight; a family composes them from the tables
here and its own.
"""

import re
from typing import ClassVar

from pelap.core.errors import ModelError
from pelap.core.network import Network
from pelap.families.family import (
    Config,
    DenoiserFamily,
    Freedom,
    Inputs,
    LayerList,
    Normal,
    example_timestep,
)
from pelap.families.layout import WidthLayout
from pelap.families.ports import State, Updates

STREAM, CONTEXT, COND = "stream", "context", "condition"
"""Groups: the picture's residual stream, the text's, and the embedded timestep."""
BLOCK = r"(?P<block>(?:single_)?transformer_blocks\.\d+)"
Roles = dict[int, str]
"""Group by axis; `a+b` stands side by side. Biases have the first axis only."""
Rules = tuple[tuple[str, Roles], ...]
"""Patterns of whole names, of which the first that matches counts, and what lies on the axes. Named
parts of a pattern stand in braces in the names of groups. A group repeats where an axis is a
multiple of it."""

PATCH_EMBEDDING: Rules = (
    (r"pos_embed\.pos_embed", {2: STREAM}),
    (r"(pos_embed|patch_embed)\.proj\.(weight|bias)", {0: STREAM}),
)
CAPTION: Rules = (
    (r"caption_projection\.linear_1\.(weight|bias)", {0: "caption"}),
    (r"caption_projection\.linear_2\.(weight|bias)", {0: CONTEXT, 1: "caption"}),
)
ADALN_SINGLE: Rules = (
    (r"(adaln_single|time_embed)\.linear\.(weight|bias)", {0: STREAM, 1: STREAM}),
    (rf"({BLOCK}\.)?scale_shift_table", {1: STREAM}),
)
"""One modulation for all blocks; the embedded timestep is added to a table of stream features."""
ATTENTION: Rules = (
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.to_[qkv]\..*", {0: "{block}.{attn}.heads", 1: STREAM}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.norm_[qk]\.weight", {0: "{block}.{attn}.heads"}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.to_out\.0\..*", {0: STREAM, 1: "{block}.{attn}.heads"}),
)
CROSS_ATTENTION: Rules = (
    (rf"{BLOCK}\.attn2\.to_[kv]\..*", {0: "{block}.attn2.heads", 1: CONTEXT}),
    *ATTENTION,
)
FEED_FORWARD: Rules = (
    (rf"{BLOCK}\.ff\.(net\.0\.proj|conv_inverted)\..*", {0: "{block}.ff", 1: STREAM}),
    (rf"{BLOCK}\.ff\.conv_depth\..*", {0: "{block}.ff"}),
    (rf"{BLOCK}\.ff\.(net\.2|conv_point)\..*", {0: STREAM, 1: "{block}.ff"}),
)
SINGLE_BLOCK: Rules = (
    (rf"{BLOCK}\.proj_mlp\..*", {0: "{block}.ff", 1: STREAM}),
    (rf"{BLOCK}\.proj_out\..*", {0: STREAM, 1: "{block}.attn.heads+{block}.ff"}),
)
"""Blocks whose attention and feed-forward stand side by side."""
MODULATION: Rules = (
    (rf"{BLOCK}\.(norm1|norm)\.linear\..*", {0: STREAM, 1: COND}),
    (r"norm_out\.linear\..*", {0: STREAM, 1: COND}),
)
OUTPUT: Rules = ((r"(proj_out|proj_out_2)\.weight", {1: STREAM}),)


def embedders(condition: str) -> Rules:
    """Two layers each for timestep, guidance and pooled text, which are summed to a group."""
    name = r"(?P<embedder>(time_text_embed|adaln_single\.emb|time_embed(\.emb)?)\.\w+)"
    return (
        (rf"{name}\.linear_1\..*", {0: "{embedder}"}),
        (rf"{name}\.linear_2\..*", {0: condition, 1: "{embedder}"}),
    )


def joint_text(text: str) -> Rules:
    """Text as wide as the picture that takes part in its attention; `text` is the text's group."""
    return (
        (r"context_embedder\.(weight|bias)", {0: text}),
        (rf"{BLOCK}\.norm1_context\.linear\..*", {0: text, 1: COND}),
        (rf"{BLOCK}\.attn\.add_[qkv]_proj\..*", {0: "{block}.attn.heads", 1: text}),
        (rf"{BLOCK}\.attn\.to_add_out\..*", {0: text, 1: "{block}.attn.heads"}),
        (rf"{BLOCK}\.ff_context\.net\.0\.proj\..*", {0: "{block}.ff_context", 1: text}),
        (rf"{BLOCK}\.ff_context\.net\.2\..*", {0: text, 1: "{block}.ff_context"}),
    )


class TransformerFamily(DenoiserFamily):
    """A diffusion transformer: a smaller one has fewer heads, and fewer layers."""

    rules: ClassVar[Rules]
    streams: ClassVar[tuple[str, ...]] = (STREAM, CONTEXT)
    """Groups as wide as all heads together. Text that becomes one sequence with the picture shares
    the picture's."""
    can_narrow = True
    depth: ClassVar[tuple[str, ...]] = ("num_layers",)

    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Latents and timestep."""
        hidden = normal(config["in_channels"], side, side)
        return {"hidden_states": hidden, "timestep": example_timestep(hidden)}

    def freedom(self, denoiser: Network) -> Freedom:
        """Heads and layers down to a quarter."""
        config = denoiser.config
        heads = config["num_attention_heads"]
        options = [tuple(range(max(1, heads // 4), heads + 1))]
        for field in self.depth:
            layers, fewest = config[field], 2 if field == "num_layers" else 1  # see layer_lists
            options.append(tuple(range(min(layers, max(fewest, layers // 4)), layers + 1)))
        names = (field.removeprefix("num_").replace("_", " ") for field in self.depth)
        return Freedom(
            tuple(options),
            ("heads", *names),
            lambda widths: self.updates(config, *widths),
            levels=((0,),) * len(self.depth),
        )

    def layer_lists(self, denoiser: Network, updates: Config) -> list[LayerList]:
        """Of the main list the first stays, since DiT takes the condition of its output from it,
        and the last, since SD3's is made without a way for the text."""
        if not self.depth:
            return []
        layers = updates.get("num_layers", denoiser.config["num_layers"])
        return [LayerList(("transformer_blocks",), layers, (0, -1))]

    def updates(self, config: Config, num_heads: int, num_layers: int | None = None) -> Updates:
        """Config fields for so many heads, and layers where these are free."""
        layers = {} if num_layers is None else {"num_layers": num_layers}
        return {"num_attention_heads": num_heads} | layers

    def coarser(self, config: Config, times: int) -> Updates:
        """A longer patch; where positions are embedded by a scale, they stay where they were."""
        if self.packing.side > 1:
            raise ModelError(
                f"The tokens of {self.class_name} cannot be made fewer: its pipeline packs "
                f"{self.packing.side}×{self.packing.side} latents, whatever its config says."
            )
        patch, side = config["patch_size"] * times, config["sample_size"]
        if side % patch:
            raise ModelError(
                f"The tokens of this {self.class_name} cannot be made fewer: its {side}×{side} "
                f"latents are no whole number of patches of {patch}."
            )
        scale = config.get("interpolation_scale")
        return {"patch_size": patch} | (
            {} if scale is None else {"interpolation_scale": scale / times}
        )

    def layout(self, denoiser: Network) -> WidthLayout:
        """Groups of a diffusion transformer.

        The residual stream is one group; the text's stream another where it is never joined with
        it; heads, hidden features of each feed-forward, and the embeddings are groups of their own.
        """
        layout = WidthLayout()
        config, state = denoiser.config, denoiser.state_dict()
        for name in self.streams:
            layout.add(name, config["num_attention_heads"] * config["attention_head_dim"])
        self._add_groups(layout, denoiser, state)
        for name, weight in state.items():
            for axis, roles in self._roles(name).items():
                if axis < weight.dim():
                    stream = tuple(roles.split("+"))
                    # no times at all: a norm of each head on its own
                    times = weight.shape[axis] // layout.size(stream)
                    if times:
                        layout.put(name, axis, stream * times)
        layout.check((name, weight.shape) for name, weight in state.items())
        for name, _ in denoiser.named_modules():
            if re.fullmatch(BLOCK, name):
                layout.features[name] = (STREAM,)
        return layout

    def _add_groups(self, layout: WidthLayout, transformer: Network, state: State) -> None:
        for name, weight in state.items():
            for axis, roles in self._roles(name).items():
                for role in roles.split("+"):
                    if role in layout.groups or axis >= weight.dim():
                        continue
                    if role.endswith(".heads"):
                        owner = transformer.get_submodule(role.removesuffix(".heads"))
                        size = owner.to_q.out_features
                        layout.add(role, size, size // owner.heads)
                    elif role.endswith((".ff", ".ff_context")):
                        layout.add(role, _hidden(role, transformer))
                    else:
                        layout.add(role, weight.shape[axis])

    def _roles(self, name: str) -> Roles:
        """What lies on the axes of a weight."""
        for pattern, roles in self.rules:
            found = re.fullmatch(pattern, name)
            if found is not None:
                return {axis: role.format(**found.groupdict()) for axis, role in roles.items()}
        return {}


def _hidden(role: str, transformer: Network) -> int:
    """Hidden features of a feed-forward: what enters its last layer."""
    block = transformer.get_submodule(role.rpartition(".")[0])
    if hasattr(block, "proj_mlp"):
        return block.proj_mlp.out_features
    feed_forward = transformer.get_submodule(role)
    if hasattr(feed_forward, "conv_point"):
        return feed_forward.conv_point.in_channels
    return feed_forward.net[2].in_features
