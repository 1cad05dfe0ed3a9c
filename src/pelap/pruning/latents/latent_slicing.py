"""Remove latent channels from the weights: models of the same class, with K channels for C.

The arithmetic is that of `LatentMap`, in float64, put back in the weights' own precision. For a
plain selection it copies the kept weights bit for bit.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from pelap.core.errors import ModelError
from pelap.families.latent_axes import axes_of, by_channel
from pelap.families.ports import (
    MOMENTS,
    AutoencoderPorts,
    Config,
    DenoiserPorts,
    Port,
    State,
    Updates,
)
from pelap.families.registry import autoencoder_ports, check_denoiser, config_of, denoiser_ports
from pelap.method.latent_map import LatentMap, LatentMoments
from pelap.method.normalizer import LatentNormalizer
from pelap.pruning.latents.raw_map import RawMap, raw_map
from pelap.pruning.rebuild import rebuild


def slice_autoencoder(
    autoencoder: nn.Module,
    latent_map: LatentMap,
    moments: LatentMoments,
    normalizer: LatentNormalizer | None = None,
) -> nn.Module:
    """An autoencoder of the same class with the kept channels; the rest is filled and folded.

    Everything that the decoder sees in front of a zero-padded convolution as a constant is exact
    inside and differs in the outermost row of latents, unless a 1×1 convolution in front can hold
    it.

    Args:
        autoencoder: Of a known class, or with its own `ports`.
        latent_map: Which channels or directions are kept, and what stands in for the others.
        moments: Of the latents as the denoiser sees them.
        normalizer: Scale and shift that the denoiser's latents have been through.

    Raises:
        ModelError: If the class is unknown or cannot express that map.
    """
    ports = autoencoder_ports(autoencoder)
    config = dict(getattr(autoencoder, "config", {}))
    keeps_scalars = config.get("latents_mean") is None
    raw = raw_map(latent_map, moments, normalizer, keeps_scalars)
    _check(ports, latent_map, type(autoencoder).__name__)
    state: State = dict(autoencoder.state_dict())
    updates: Updates = {"latent_channels": latent_map.num_kept}
    if ports.fold_shortcuts is not None:
        updates |= ports.fold_shortcuts(state, config)
    if not keeps_scalars:
        scale = config.get("scaling_factor") or 1.0  # stays, and divides them again
        updates |= {"latents_mean": raw.mean.tolist(), "latents_std": (raw.std * scale).tolist()}
    _slice_encoder(state, ports, raw)
    updates |= _slice_decoder(state, ports, raw)
    for port in ports.statistics:
        for name in ("running_mean", "running_var"):
            _write(state, f"{port.layer}.{name}", lambda t, p=port: _select_rows(t, p, raw.encode))
    return rebuild(autoencoder, updates, state)


def _check(ports: AutoencoderPorts, latent_map: LatentMap, name: str) -> None:
    if not ports.rotates and not latent_map.selects:
        raise ModelError(f"{name} stores statistics by channel: it cannot be rotated.")
    if ports.tanh_scale is not None and (latent_map.predicts or not latent_map.selects):
        raise ModelError(
            f"{name} squashes latents in front of its decoder: only --fill zero and mean and no "
            "rotation can be folded into its weights."
        )


def slice_denoiser(
    denoiser: nn.Module, latent_map: LatentMap, stand_in: Tensor | None = None
) -> nn.Module:
    """A denoiser of the same class with the kept channels.

    Args:
        denoiser: Of a known class.
        latent_map: Which channels or directions are kept.
        stand_in: (C, K): what it gets for noisy latents is this matrix times the kept ones; without
            it, or behind a norm of the latents, removed ones are zero.

    Raises:
        ModelError: If the class is unknown, or it has another number of latent channels.
    """
    ports = denoiser_ports(denoiser)
    state: State = dict(denoiser.state_dict())
    config = config_of(denoiser)
    encode = latent_map.encode
    num_channels = encode.shape[1]
    check_denoiser(denoiser, num_channels)
    output = output_port(ports, config, num_channels)
    shown = stand_in_map(ports, latent_map, stand_in)
    if ports.input_norm is not None:
        _slice_norm(state, ports, latent_map)
    in_size = _write_port(state, ports.input, 1, [shown, shown], None)
    maps = [encode, encode.square()]
    _write_port(state, output, 0, maps, [torch.zeros(len(encode)).double()] * 2)
    updates = _channel_fields(config, num_channels, latent_map.num_kept, in_size)
    return rebuild(denoiser, updates, state)


def output_port(ports: DenoiserPorts, config: Config, num_channels: int) -> Port:
    """The output's port, which also carries a variance where the denoiser learned that."""
    if config.get("out_channels") == 2 * num_channels:
        return replace(ports.output, kinds=MOMENTS)
    return ports.output


def stand_in_map(ports: DenoiserPorts, latent_map: LatentMap, stand_in: Tensor | None) -> Tensor:
    """What the input layer's weights are mapped by, (K, C); see `slice_denoiser`."""
    if stand_in is None or ports.input_norm is not None:
        return latent_map.encode
    return stand_in.T


def _channel_fields(config: Config, num_channels: int, num_kept: int, in_size: int) -> Updates:
    if "latent_channels" in config:
        return {"latent_channels": num_kept}
    updates = {"in_channels": in_size}
    if config.get("out_channels") is not None:
        updates["out_channels"] = config["out_channels"] // num_channels * num_kept
    return updates


def _width(state: State, port: Port, axis: int) -> int:
    return state[f"{port.layer}.weight"].shape[axis]


def _write(state: State, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Replace a tensor, computed in float64 and put back in its own precision."""
    old = state[name]
    state[name] = change(old.double()).to(old.dtype).contiguous()


def _write_port(
    state: State,
    port: Port,
    axis: int,
    maps: list[Tensor],
    offsets: list[Tensor] | None,
) -> int:
    """Map the features of a layer's axis; returns the axis' new size.

    Args:
        state: Changed in place.
        port: Which layer.
        axis: Of the weight: 0 for what leaves it, 1 for what enters.
        maps: (K, C) for kind mean and for kind variance.
        offsets: (K,) for both, added to the bias; None where the bias is another axis.
    """
    name = _resolve(state, port.layer)
    weight = f"{name}.weight"
    _write(state, weight, lambda t: map_axis(t, axis, port, maps))
    if offsets is not None:
        bias = f"{name}.bias"
        size = state[weight].shape[0]
        if bias in state:
            _write(state, bias, lambda t: map_axis(t, 0, port, maps, offsets))
        elif any(bool(offset.any()) for offset in offsets):
            raise ModelError(f"{name} has no bias to hold a shift of the latents; {size} features.")
    return state[weight].shape[axis]


def map_axis(
    tensor: Tensor,
    axis: int,
    port: Port,
    maps: list[Tensor],
    offsets: list[Tensor] | None = None,
) -> Tensor:
    """A tensor with the latents' features on an axis mapped; arguments as of `_write_port`."""
    source = tensor.movedim(axis, 0)
    num_kept, num_channels = maps[0].shape
    others = port.count_others(len(source), num_channels)
    old = port.members(len(source), num_channels, others)  # (C, n)
    size = len(source) - old.shape[1] * (num_channels - num_kept)
    new = port.members(size, num_kept, others)  # (K, n)
    result = source.new_empty((size, *source.shape[1:]))
    result[_others(size, new)] = source[_others(len(source), old)]
    for column in range(old.shape[1]):
        which = 1 if port.kind(column) == "variance" else 0
        mapped = torch.tensordot(maps[which].to(source), source[old[:, column]], dims=1)
        if offsets is not None:
            mapped = mapped + offsets[which].to(source)
        result[new[:, column]] = mapped
    return result.movedim(0, axis)


def _others(size: int, members: Tensor) -> Tensor:
    is_other = torch.ones(size, dtype=torch.bool)
    is_other[members.flatten()] = False
    return is_other.nonzero().flatten()


def _select_rows(tensor: Tensor, port: Port, encode: Tensor) -> Tensor:
    return map_axis(tensor, 0, port, [encode, encode])


def _resolve(state: State, layer: str) -> str:
    """The layer's name, with -1 in place of the last number of a sequence."""
    if not layer.endswith(".-1"):
        return layer
    prefix = layer[:-2]
    numbers = {int(n[len(prefix) :].split(".")[0]) for n in state if n.startswith(prefix)}
    return f"{prefix}{max(numbers)}"


def _slice_encoder(state: State, ports: AutoencoderPorts, raw: RawMap) -> None:
    (first, *_) = ports.encoder
    if ports.quant is not None and f"{ports.quant}.weight" in state:
        _compose_quant(state, ports.quant, first.layer)
    maps, offsets = [raw.encode, raw.variance], [raw.encode_offset, raw.variance_offset]
    for port in ports.encoder:
        _write_port(state, port, 0, maps, offsets)
    if ports.quant is not None and f"{ports.quant}.weight" in state:
        _write_identity(state, ports.quant, _width(state, first, 0))


def _compose_quant(state: State, quant: str, layer: str) -> None:
    """Put the 1×1 convolution behind a layer into it."""
    mixing = state[f"{quant}.weight"].double().flatten(1)  # (2C, 2C)
    shift = state[f"{quant}.bias"].double()
    _write(state, f"{layer}.weight", lambda t: torch.tensordot(mixing, t, dims=1))
    _write(state, f"{layer}.bias", lambda t: mixing @ t + shift)


def _write_identity(state: State, layer: str, size: int) -> None:
    weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
    state[f"{layer}.weight"] = by_channel(torch.eye(size, dtype=weight.dtype), weight)
    state[f"{layer}.bias"] = torch.zeros(size, dtype=bias.dtype)


def _slice_decoder(state: State, ports: AutoencoderPorts, raw: RawMap) -> Updates:
    """Fold the map in front of the decoder's first layer; returns config fields that change.

    In place of the latents stands D·k + d, of the kept ones k. They pass a 1×1 convolution P·z + p
    (`post_quant`), where there is one, then a convolution W with bias b, padded with zeros:

        W ∗ (P (D k + d) + p) + b = (W M) ∗ k + W ∗ c + b   with M = P D and c = P d + p

    W M takes W's place. W ∗ c is the sum over the kernel, a bias, except where the kernel reaches
    into the padding, which has no c. A 1×1 convolution k + h that stays in front of W M holds part
    of c so that it is right there too: (W M) ∗ (k + h) = (W M) ∗ k + W ∗ M h, absent from the
    padding like c. The best h is the least-squares solution of W_out M h = W_out c, where W_out are
    the parts of W that fall on padding; of what is left, c − M h, the bias takes the sum.
    """
    name, post_quant, updates = _resolve(state, ports.decoder), ports.post_quant, {}
    mixing, constant = raw.decode, raw.decode_offset
    has_post_quant = post_quant is not None and f"{post_quant}.weight" in state
    if has_post_quant:
        weight = state[f"{post_quant}.weight"].double().flatten(1)
        constant = weight @ constant + state[f"{post_quant}.bias"].double()
        mixing = weight @ mixing
    elif ports.optional_post_quant is not None and bool(constant.any()):
        updates = {ports.optional_post_quant: True}
        has_post_quant = True
    if ports.tanh_scale is not None:
        constant = ports.tanh_scale * torch.tanh(constant / ports.tanh_scale)
    like = state[f"{name}.weight"]
    kernel = like.double()  # (O, C, …)
    rest = constant
    if has_post_quant:
        outside, num_kept = _outside(kernel), len(raw.mean)
        held = torch.linalg.pinv(outside @ mixing, rtol=1e-10) @ (outside @ constant)
        state[f"{post_quant}.weight"] = by_channel(torch.eye(num_kept, dtype=like.dtype), like)
        state[f"{post_quant}.bias"] = held.to(like.dtype)
        rest = constant - mixing @ held
    shift = torch.tensordot(kernel.flatten(2).sum(2) if kernel.dim() > 2 else kernel, rest, dims=1)
    _write(state, f"{name}.weight", lambda t: torch.einsum("oc...,ck->ok...", t, mixing))
    if f"{name}.bias" in state:
        _write(state, f"{name}.bias", lambda t: t + shift)
    elif bool(shift.abs().max() > 0):
        raise ModelError(f"{name} has no bias to hold what stands in for removed channels.")
    return updates


def _outside(kernel: Tensor) -> Tensor:
    """What of a convolution (O, C, k, …) falls on the padding at each side, as rows of (…, C)."""
    sides = []
    for axis in axes_of(kernel):
        size = kernel.shape[axis]
        reach = range(1, size // 2 + 1)
        sides += [kernel.narrow(axis, 0, n) for n in reach]
        sides += [kernel.narrow(axis, size - n, n) for n in reach]
    if not sides:  # a 1×1 convolution has no padding: anything will do
        sides = [kernel]
    return torch.cat([side.flatten(2).sum(dim=2) for side in sides])


def _slice_norm(state: State, ports: DenoiserPorts, latent_map: LatentMap) -> None:
    """Remove channels from a norm of one group a channel; what a zero becomes goes into the bias.

    The paper's UNet normalises its input in min(8, C) groups.
    """
    name, layer = ports.input_norm, ports.input.layer
    encode = latent_map.encode
    num_channels = encode.shape[1]
    if not latent_map.selects or num_channels > 8:
        raise ModelError(
            "The paper's UNet normalises each latent channel on its own for up to 8 channels: "
            f"only then can channels be removed, and none rotated (it has {num_channels})."
        )
    removed = encode.sum(dim=0) == 0  # (C,)
    constant = torch.nn.functional.silu(state[f"{name}.bias"].double())[removed]
    kernel = state[f"{layer}.weight"].double()[:, removed]
    _write(state, f"{layer}.bias", lambda t: t + kernel.sum(dim=(2, 3)) @ constant)
    for part in ("weight", "bias"):
        _write(state, f"{name}.{part}", lambda t: encode @ t)
