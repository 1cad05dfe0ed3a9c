"""Larger patches in closed form: a transformer that sees 2×2 of its tokens as one.

What stays within a patch has to get from the input to the output, for a denoiser gives back the
noise that it is shown. The blocks, made for tokens half as large, have no part in that: so their
stream keeps some features for it, which no block reads or writes, and the last layer is fitted.
"""

import re
from dataclasses import dataclass
from itertools import product
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from pelap.core.errors import ModelError
from pelap.core.network import as_network
from pelap.families.layout import Kept, WidthLayout
from pelap.families.ports import DenoiserPorts, State
from pelap.families.registry import config_of, denoiser_family, denoiser_ports
from pelap.families.transformer import BLOCK, STREAM
from pelap.pruning.rebuild import empty, rebuild
from pelap.pruning.width.refit import match_positions
from pelap.pruning.width.unit_slicing import slice_weights
from pelap.pruning.width.width_choice import find_layout
from pelap.pruning.width.width_criteria import WidthScores

TIMES = 2
"""How much longer a patch gets along each axis."""
PATTERNS = torch.tensor([[[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]]) / 2.0
"""Haar's three differences of 2×2 values, orthonormal: (3, 2, 2)."""
CARRIED_SCALE = 4.0
"""Spread of a carried difference, in that of an ordinary feature of the embedding: the last layer
finds it among what the blocks have added."""
MOST_CARRIED = 0.5
"""Of the stream's features."""


@dataclass(frozen=True)
class MergedTokens:
    """What comes out."""

    denoiser: nn.Module
    patch_sizes: tuple[int, int]
    """Before and after."""
    carried: Tensor
    """Features of the stream that carry differences, (n,)."""
    layout: WidthLayout
    """Of the original."""
    kept: Kept
    """All its units, those of the stream in the order of the new one's."""


@torch.no_grad()
def merge_tokens(denoiser: nn.Module, scores: WidthScores) -> MergedTokens:
    """A denoiser of the same class with a quarter of the tokens.

    Args:
        denoiser: A transformer whose config says its patches; left as it is.
        scores: What its weights are worth: the least features of the stream carry differences.

    Raises:
        ModelError: If the class has no larger patches, or too few features to carry what is in one.
    """
    config, ports = config_of(denoiser), denoiser_ports(denoiser)
    updates = denoiser_family(denoiser).coarser(config, TIMES)
    new = empty(denoiser, updates)
    layout = find_layout(denoiser)
    state = dict(denoiser.state_dict())
    kept = {name: torch.arange(group.num_units) for name, group in layout.groups.items()}
    positions = _wanted_positions(denoiser)
    moves = torch.zeros(layout.groups[STREAM].size)
    if positions is not None and "pos_embed.pos_embed" not in state:
        table = new.pos_embed.pos_embed[0]
        kept[STREAM], _ = match_positions(positions, table, kept[STREAM])
        state = slice_weights(state, layout, kept)
        shift = (positions[:, kept[STREAM]] - table).mean(dim=0)
        bias = state["pos_embed.proj.bias"]
        state["pos_embed.proj.bias"] = bias + shift.to(bias)
        moves = table.std(dim=0)
    elif positions is not None:
        state["pos_embed.pos_embed"] = positions[None].to(state["pos_embed.pos_embed"])
    worth = scores.of_units(layout)[STREAM][kept[STREAM]]
    kernel = state[f"{ports.input.layer}.weight"]
    check_carriers(denoiser, kernel.shape[1])
    carried = _choose_carriers(worth, moves, len(PATTERNS) * kernel[0].numel())
    _merge_input(state, ports, carried)
    _merge_output(state, ports, kernel.shape[-1])
    _leave_alone(state, layout, carried)
    merged = rebuild(denoiser, updates, state)
    sizes = (config["patch_size"], updates["patch_size"])
    return MergedTokens(merged, sizes, carried, layout, kept)


def _wanted_positions(denoiser: nn.Module) -> Tensor | None:
    """The mean position of each four tokens, (positions / 4, D); None where there are none."""
    embedding = as_network(denoiser)
    table = getattr(getattr(embedding, "pos_embed", None), "pos_embed", None)
    if table is None:
        return None
    side = round(table.shape[1] ** 0.5)
    grid = table[0].T.reshape(1, -1, side, side)
    return avg_pool2d(grid.float(), TIMES).flatten(2)[0].T.cpu()


def check_carriers(denoiser: nn.Module, num_channels: int) -> None:
    """Refuse where the stream cannot carry what is within a patch.

    Raises:
        ModelError: Says how much there is.
    """
    config = config_of(denoiser)
    number = len(PATTERNS) * num_channels * config["patch_size"] ** 2
    size = config["num_attention_heads"] * config["attention_head_dim"]
    if number > MOST_CARRIED * size:
        raise ModelError(
            f"--tokens: {number} differences are within a patch, too many for the {size} features "
            "of the stream. Remove latent channels with it (--keep)."
        )


def _choose_carriers(worth: Tensor, moves: Tensor, number: int) -> Tensor:
    """The features of least worth, (number,), of those whose positions move least."""
    still = moves.argsort(stable=True)[: max(number, len(worth) // 2)]
    return still[worth[still].argsort(stable=True)[:number]].sort().values


def _merge_input(state: State, ports: DenoiserPorts, carried: Tensor) -> None:
    """Embed the mean of four tokens as one was, and their differences in features of their own."""
    name = f"{ports.input.layer}.weight"
    old = state[name].double()  # (D, C, p, p)
    patch = old.shape[-1]
    new = old.repeat(1, 1, TIMES, TIMES) / TIMES**2
    spread = old.flatten(1).norm(dim=1).mean()  # of a feature's response to white noise
    new[carried] = 0
    places = product(range(old.shape[1]), range(patch), range(patch), PATTERNS.double())
    for feature, (channel, row, column, pattern) in zip(carried, places, strict=True):
        new[feature, channel, row::patch, column::patch] = pattern * spread * CARRIED_SCALE
    state[name] = new.to(state[name])
    bias = state[f"{ports.input.layer}.bias"].clone()
    bias[carried] = 0
    state[f"{ports.input.layer}.bias"] = bias


def _merge_output(state: State, ports: DenoiserPorts, patch: int) -> None:
    """Let every one of the four places be told what the one token was."""
    for name in (f"{ports.output.layer}.weight", f"{ports.output.layer}.bias"):
        old = state[name]  # (p · p · C, …)
        parts = old.reshape(1, patch, 1, patch, -1, *old.shape[1:])
        parts = parts.expand(TIMES, -1, TIMES, *parts.shape[3:])
        state[name] = parts.reshape(TIMES**2 * len(old), *old.shape[1:]).contiguous()


def _leave_alone(state: State, layout: WidthLayout, carried: Tensor) -> None:
    """Let no block read or write the carried features."""
    for name, axes in layout.axes.items():
        if not re.match(BLOCK, name) or not name.endswith((".weight", ".bias")):
            continue
        for axis, stream in axes.items():
            if stream == (STREAM,):
                state[name] = state[name].index_fill(axis, carried.to(state[name].device), 0)


def merge_outputs(output: Tensor, patch: int) -> Tensor:
    """What the last layer gave for old tokens as it should be given for merged ones.

    Args:
        output: Of square latents, (B, n², p · p · C), rows of tokens after each other.
        patch: p.

    Returns:
        (B, (n / 2)², 2p · 2p · C).
    """
    few = isqrt(output.shape[1]) // TIMES
    parts = output.reshape(len(output), few, TIMES, few, TIMES, patch, patch, -1)
    # (B, i, a, j, b, p, q, C) → (B, i, j, a, p, b, q, C)
    parts = parts.permute(0, 1, 3, 2, 5, 4, 6, 7)
    return parts.reshape(len(output), few * few, -1)
