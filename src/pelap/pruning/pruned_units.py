"""Note which units of a denoiser stay, as `KeptUnits`, for adapters to be carried by."""

import torch
from torch import Tensor, nn

from pelap.core.network import as_network
from pelap.families.layout import Kept, WidthLayout
from pelap.families.ports import Port
from pelap.families.registry import config_of, denoiser_ports
from pelap.method.latent_map import LatentMap
from pelap.models.kept_units import KeptUnits, LayerUnits, Units, all_units, as_indices, as_units
from pelap.models.loaded import LoadedModel
from pelap.pruning.latents.latent_slicing import map_axis, output_port, stand_in_map
from pelap.pruning.width.layers import new_name
from pelap.pruning.width.refit import mix_time, timed_layers
from pelap.pruning.width.width_choice import NarrowDenoiser


def kept_units(model: LoadedModel) -> KeptUnits:
    """Those of a model that has a denoiser: all of it where it was not pruned yet."""
    assert model.denoiser is not None
    return model.kept_units or all_units(model.name, model.denoiser)


def after_latents(
    units: KeptUnits, denoiser: nn.Module, latent_map: LatentMap, stand_in: Tensor | None
) -> KeptUnits:
    """What stays after `slice_denoiser`, with the same arguments."""
    ports = denoiser_ports(denoiser)
    encode = latent_map.encode
    output = output_port(ports, config_of(denoiser), encode.shape[1])
    shown = stand_in_map(ports, latent_map, stand_in)  # (K, C)
    weights = denoiser.state_dict()
    inputs = _port_units(weights, ports.input, 1, [shown, shown])
    outputs = _port_units(weights, output, 0, [encode, encode.square()])
    changes = {
        ports.input.layer: LayerUnits(ports.input.layer, (), inputs=inputs),
        output.layer: LayerUnits(output.layer, (), outputs=outputs),
    }
    return units.after(changes)


def _port_units(
    weights: dict[str, Tensor], port: Port, axis: int, maps: list[Tensor]
) -> Tensor | None:
    size = weights[f"{port.layer}.weight"].shape[axis]
    return as_units(map_axis(torch.eye(size, dtype=torch.float64), 0, port, maps))


def after_tokens(
    units: KeptUnits, denoiser: nn.Module, layout: WidthLayout, kept: Kept
) -> KeptUnits:
    """What stays once patches are larger: nothing of the first and last layer, and elsewhere the
    same units in the order that is kept."""
    ports, changes = denoiser_ports(denoiser), {}
    for name, weight in denoiser.state_dict().items():
        if name.endswith(".weight"):
            layer = name.removesuffix(".weight")
            found = _by_axis(name, weight, layout, kept)
            changes[layer] = LayerUnits(layer, (), found.get(0), found.get(1))
    return units.after(changes, frozenset({ports.input.layer, ports.output.layer}))


def _by_axis(name: str, weight: Tensor, layout: WidthLayout, kept: Kept) -> dict[int, Units]:
    """What stays on each axis of a weight, which is as before, by its name in the layout."""
    return {
        axis: as_indices(layout.features_of(stream, kept), weight.shape[axis])
        for axis, stream in layout.axes.get(name, {}).items()
    }


def after_width(units: KeptUnits, denoiser: nn.Module, narrower: NarrowDenoiser) -> KeptUnits:
    """What stays after the denoiser was narrowed."""
    layout, kept, changes, removed = narrower.layout, narrower.kept, {}, set()
    mixed = None
    if hasattr(denoiser, "time_proj"):
        mixed = mix_time(as_network(denoiser), as_network(narrower.denoiser))
    for name, weight in denoiser.state_dict().items():
        if not name.endswith(".weight"):
            continue
        layer, new = name.removesuffix(".weight"), new_name(name, narrower.layers)
        if new is None:
            removed.add(layer)
            continue
        found = _by_axis(new, weight, layout, kept)
        fitted = mixed is not None and layer in timed_layers(as_network(denoiser))
        inputs = mixed if fitted else found.get(1)
        short, scale = new.removesuffix(".weight"), layout.scale(new, kept)
        changes[layer] = LayerUnits(short, (), found.get(0), inputs, scale, fitted)
    return units.after(changes, frozenset(removed))
