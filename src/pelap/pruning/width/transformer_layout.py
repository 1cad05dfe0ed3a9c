"""The layout of diffusers' diffusion transformers: a table of names, since they are all alike."""

import math
import re
from typing import Any

from torch import Tensor

from pelap.core.errors import ModelError
from pelap.pruning.rebuild import State
from pelap.pruning.width.layout import WidthLayout

STREAM, CONTEXT, COND = "stream", "context", "condition"
BLOCK = r"(?P<block>(?:single_)?transformer_blocks\.\d+)"
Roles = dict[int, str]
Layers = dict[str, list[int]]
"""Numbers of kept layers, by the name of their list."""
DEPTH = {"num_layers": "transformer_blocks", "num_single_layers": "single_transformer_blocks",
         "dual_attention_layers": ""}  # fmt: skip
"""Config fields that say how deep a transformer is, and what they number."""

RULES: tuple[tuple[str, Roles], ...] = (
    (r"pos_embed\.pos_embed", {2: STREAM}),
    (r"(pos_embed|patch_embed)\.proj\.(weight|bias)", {0: STREAM}),
    (r"x_embedder\.(weight|bias)", {0: STREAM}),
    (r"context_embedder\.(weight|bias)", {0: CONTEXT}),
    (r"caption_projection\.linear_1\.(weight|bias)", {0: "caption"}),
    (r"caption_projection\.linear_2\.(weight|bias)", {0: CONTEXT, 1: "caption"}),
    (r"caption_norm\.weight", {0: CONTEXT}),
    (r"(?P<embedder>(time_text_embed|adaln_single\.emb|time_embed(\.emb)?)\.\w+)\.linear_1\..*",
     {0: "{embedder}"}),
    (r"(?P<embedder>(time_text_embed|adaln_single\.emb|time_embed(\.emb)?)\.\w+)\.linear_2\..*",
     {0: COND, 1: "{embedder}"}),
    (r"(adaln_single|time_embed)\.linear\.(weight|bias)", {0: STREAM, 1: COND}),
    (rf"{BLOCK}\.norm1\.emb\.timestep_embedder\.linear_1\..*", {0: "{block}.time"}),
    (rf"{BLOCK}\.norm1\.emb\.timestep_embedder\.linear_2\..*",
     {0: "{block}.condition", 1: "{block}.time"}),
    (rf"{BLOCK}\.norm1\.emb\.class_embedder\..*", {1: "{block}.condition"}),
    (rf"{BLOCK}\.(norm1|norm|norm1_context)\.linear\..*", {0: "{of}", 1: "{condition}"}),
    (rf"({BLOCK}\.)?scale_shift_table", {1: STREAM}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.to_q\..*", {0: "{block}.{attn}.heads", 1: STREAM}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.to_[kv]\..*", {0: "{block}.{attn}.heads", 1: "{keys}"}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.add_[qkv]_proj\..*", {0: "{block}.{attn}.heads", 1: CONTEXT}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.norm_[qk]\.weight", {0: "{block}.{attn}.heads"}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.to_out\.0\..*", {0: STREAM, 1: "{block}.{attn}.heads"}),
    (rf"{BLOCK}\.(?P<attn>attn\d?)\.to_add_out\..*", {0: CONTEXT, 1: "{block}.{attn}.heads"}),
    (rf"{BLOCK}\.(?P<ff>ff|ff_context)\.(net\.0\.proj|conv_inverted)\..*",
     {0: "{block}.{ff}", 1: "{of}"}),
    (rf"{BLOCK}\.(?P<ff>ff)\.conv_depth\..*", {0: "{block}.{ff}"}),
    (rf"{BLOCK}\.(?P<ff>ff|ff_context)\.(net\.2|conv_point)\..*", {0: "{of}", 1: "{block}.{ff}"}),
    (rf"{BLOCK}\.proj_mlp\..*", {0: "{block}.ff", 1: STREAM}),
    (rf"{BLOCK}\.proj_out\..*", {0: STREAM, 1: "{block}.attn.heads+{block}.ff"}),
    (r"norm_out\.linear\..*", {0: STREAM, 1: COND}),
    (r"proj_out_1\..*", {0: STREAM, 1: "transformer_blocks.0.condition"}),
    (r"(proj_out|proj_out_2)\.weight", {1: STREAM}),
)  # fmt: skip
"""Names of weights and what lies on their axes; a stream repeats where an axis is a multiple."""


def transformer_layout(transformer: Any) -> WidthLayout:
    """Groups of a diffusion transformer.

    The residual stream is one group; the text's stream another where it is never joined with it;
    heads, hidden features of each feed-forward, and the embeddings are groups of their own.

    Raises:
        ModelError: If this variant has layers that are not known here.
    """
    layout = WidthLayout()
    config, state = transformer.config, transformer.state_dict()
    if any("resolution_embedder" in name for name in state):
        raise ModelError(
            "The width of a transformer with use_additional_conditions cannot be pruned."
        )
    width = config["num_attention_heads"] * config["attention_head_dim"]
    _add_groups(layout, transformer, state, width)
    for name, weight in state.items():
        for axis, roles in _roles(name, transformer).items():
            if axis < weight.dim():
                stream = tuple(roles.split("+"))
                # no times at all: a norm of each head on its own
                times = weight.shape[axis] // layout.size(stream)
                if times:
                    layout.put(name, axis, stream * times)
    layout.check((name, weight.shape) for name, weight in state.items())
    for name, _ in transformer.named_modules():
        if re.fullmatch(BLOCK, name):
            layout.features[name] = (STREAM,)
    return layout


def _add_groups(layout: WidthLayout, transformer: Any, state: State, width: int) -> None:
    layout.add(STREAM, width)
    if not _joins_text(transformer):
        layout.add(CONTEXT, width)
    for name, weight in state.items():
        for axis, roles in _roles(name, transformer).items():
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


def _hidden(role: str, transformer: Any) -> int:
    block = transformer.get_submodule(role.rpartition(".")[0])
    if hasattr(block, "proj_mlp"):
        return block.proj_mlp.out_features
    feed_forward = transformer.get_submodule(role)
    if hasattr(feed_forward, "conv_point"):
        return feed_forward.conv_point.in_channels
    return feed_forward.net[2].in_features


def _roles(name: str, transformer: Any) -> Roles:
    """What lies on the axes of a weight; biases have the first axis only."""
    for pattern, roles in RULES:
        found = re.fullmatch(pattern, name)
        if found is None:
            continue
        words = found.groupdict()
        text = STREAM if _joins_text(transformer) else CONTEXT
        words["of"] = text if "context" in name else STREAM
        words["keys"] = (
            CONTEXT if words.get("attn") == "attn2" and _crosses(transformer) else STREAM
        )
        own = f"{words.get('block')}.condition"
        words["condition"] = own if _conditions_itself(transformer) else COND
        same = {CONTEXT: text, COND: STREAM if _adds_condition(transformer) else COND}
        named = {axis: role.format(**words) for axis, role in roles.items()}
        return {axis: same.get(role, role) for axis, role in named.items()}
    return {}


def _joins_text(transformer: Any) -> bool:
    """Whether text and picture become one sequence, so that they share one stream."""
    return hasattr(transformer, "single_transformer_blocks")


def _crosses(transformer: Any) -> bool:
    """Whether attn2 looks at the text; SD3's dual attention looks at the picture."""
    return "cross_attention_dim" in transformer.config


def _adds_condition(transformer: Any) -> bool:
    """Whether the embedded timestep is added to a table of the stream's features at the end."""
    return hasattr(transformer, "scale_shift_table")


def _conditions_itself(transformer: Any) -> bool:
    """Whether each block embeds the timestep anew, as DiT does."""
    return getattr(transformer.transformer_blocks[0].norm1, "emb", None) is not None


def transformer_updates(transformer: Any, num_heads: int, num_layers: int) -> dict[str, Any]:
    """Config fields of a transformer with so many heads and layers."""
    config = transformer.config
    updates: dict[str, Any] = {"num_attention_heads": num_heads, "num_layers": num_layers}
    width = num_heads * config["attention_head_dim"]
    for field in ("cross_attention_dim", "caption_projection_dim"):
        if field in config and num_heads != config["num_attention_heads"]:
            updates[field] = width
    if "num_cross_attention_heads" in config:
        heads = config["num_cross_attention_heads"] * num_heads // config["num_attention_heads"]
        updates["num_cross_attention_heads"] = max(1, heads)
    if config.get("dual_attention_layers"):
        dual = config["dual_attention_layers"]
        updates["dual_attention_layers"] = tuple(layer for layer in dual if layer < num_layers)
    if "num_single_layers" in config:
        singles = config["num_single_layers"] * num_layers / config["num_layers"]
        updates["num_single_layers"] = max(1, round(singles))
    return updates


def choose_layers(scores: dict[str, Tensor], updates: dict[str, Any]) -> Layers:
    """Layers to keep, rising: those with the highest scores.

    Of the main list the first stays, since DiT takes the condition of its output from it, and the
    last, since SD3's is made without a way for the text.

    Args:
        scores: One a layer, by the name of their list.
        updates: Config fields that change, of which DEPTH say how many layers stay.
    """
    kept = {}
    for field, owner in DEPTH.items():
        if owner not in scores:
            continue
        values = scores[owner].clone()
        if owner == "transformer_blocks":
            values[-1] = values[0] = math.inf
        ranked = values.argsort(descending=True, stable=True)
        kept[owner] = sorted(ranked[: updates.get(field, len(values))].tolist())
    return kept


def renumber_layers(transformer: Any, updates: dict[str, Any], kept: Layers) -> dict[str, Any]:
    """The updates with SD3's list of layers with dual attention as the kept layers have it."""
    dual = transformer.config.get("dual_attention_layers")
    if not dual:
        return updates
    numbers = [new for new, old in enumerate(kept["transformer_blocks"]) if old in dual]
    return updates | {"dual_attention_layers": tuple(numbers)}


def take_layers(state: State, kept: Layers) -> State:
    """The weights of the kept layers under their new numbers, and all others."""
    if not kept:
        return state
    found = {}
    for name, weight in state.items():
        match = re.match(r"((?:single_)?transformer_blocks)\.(\d+)\.(.*)", name)
        if match is None:
            found[name] = weight
            continue
        owner, number, rest = match[1], int(match[2]), match[3]
        if number in kept[owner]:
            found[f"{owner}.{kept[owner].index(number)}.{rest}"] = weight
    return found
