"""Cut a ControlNet of the original by the kept units, layer by layer as its UNet was cut.

Its layers have the UNet's names and sizes, and those that are its own add features to the UNet's
skips: what is added to features that stay is all that is needed.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from pelap.core.errors import ModelError
from pelap.core.network import Network
from pelap.families.controlnet import (
    CONDITION_OUT,
    CONV_IN,
    DOWN,
    KIND,
    MID,
    MID_OUTPUT,
    SHARED_FIELDS,
    skip_layers,
)
from pelap.families.ports import State, Updates
from pelap.families.registry import config_of
from pelap.models.kept_units import KeptUnits, LayerUnits, take_units
from pelap.models.loaded import LoadedModel
from pelap.models.opening import load_part, read_json
from pelap.pruning.adapters.controlnet_time import fit_time
from pelap.pruning.adapters.lora_carry import find_units
from pelap.pruning.rebuild import empty, rebuild
from pelap.pruning.width.refit import refit_time

IN_THE_WAY = {
    "T2IAdapter": "its layers (body) hand what is removed on from level to level",
    "MultiAdapter": "its layers (body) hand what is removed on from level to level",
}
"""Why other classes are not carried."""


@dataclass(frozen=True)
class CarriedControlNet:
    """What became of a ControlNet."""

    controlnet: str
    """Folder of the original's."""
    output: str
    small: str
    """The pruned model's name."""
    num_carried: int
    """Layers that it shares with the UNet."""
    dropped: list[str]
    """Layers that pruning removed."""
    time_difference: float
    """Of what the refitted time embedding gives, relative; 0 where nothing had to be fitted."""
    parameters: tuple[int, int]
    """Before and after."""

    def describe(self) -> str:
        """For a terminal."""
        before, after = self.parameters
        lines = [
            f"{'ControlNet':24} {self.controlnet}",
            f"{'carried layers':24} {self.num_carried}",
            f"{'dropped layers':24} {len(self.dropped) or 'none'}",
            *(f"{'':24} {name}" for name in self.dropped),
            f"{'parameters':24} {before:,} → {after:,}",
        ]
        if self.time_difference:
            lines.append(f"{'time embedding differs':24} {self.time_difference:.2%}")
        return "\n".join([*lines, f"{'written':24} {self.output}"])


def carry_controlnet(
    folder: Path, model: LoadedModel, output: Path
) -> tuple[nn.Module, CarriedControlNet]:
    """A ControlNet for the pruned model, and what became of the original's.

    Args:
        folder: Of the original's ControlNet.
        model: The pruned model.
        output: Where the new one will lie.

    Raises:
        ModelError: If the folder holds no ControlNet of the model that was pruned.
    """
    units = find_units(model)
    controlnet = _open(folder, model)
    updates = _updates(controlnet, model)
    skips = skip_layers(controlnet)
    _check_sizes(folder, controlnet.state_dict(), units)
    state: State = {}
    for name, tensor in controlnet.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        cut = _layer_units(layer, skips, units)
        if cut.name is not None:
            state[f"{cut.name}.{leaf}"] = _cut(tensor, cut, leaf)
    difference = _match_time(folder, controlnet, empty(controlnet, updates), units, state)
    small = rebuild(controlnet, updates, state)
    shared = [name for name in units.layers if f"{name}.weight" in controlnet.state_dict()]
    dropped = sorted(name for name in shared if units.layers[name].name is None)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (controlnet, small)]
    return small, CarriedControlNet(
        str(folder), str(output), model.name, len(shared) - len(dropped), dropped, difference,
        (sizes[0], sizes[1]),
    )  # fmt: skip


def _open(folder: Path, model: LoadedModel) -> Network:
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder: give that of a ControlNet (config.json in it).")
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != KIND or not hasattr(model.denoiser, "down_blocks"):
        reason = IN_THE_WAY.get(str(kind), f"only {KIND} is, of a UNet")
        raise ModelError(f"{folder} is {kind}, which is not carried: {reason}.")
    return load_part(folder, "diffusers", KIND, (KIND,))


def _updates(controlnet: Network, model: LoadedModel) -> Updates:
    """Fields of its config as the pruned UNet has them."""
    own, small = config_of(controlnet), config_of(model.denoiser)
    updates = {name: small[name] for name in SHARED_FIELDS if name in own and name in small}
    layers = updates["layers_per_block"]
    if not isinstance(layers, int):
        if len(set(layers)) > 1:
            raise ModelError(
                f"The levels of {model.name} have {tuple(layers)} layers: a {KIND} has as many in "
                "each (layers_per_block), so none can be carried."
            )
        updates["layers_per_block"] = layers[0]
    return updates


def _check_sizes(folder: Path, state: State, units: KeptUnits) -> None:
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != "weight" or layer.startswith("controlnet_"):
            continue
        if layer not in units.layers:
            raise ModelError(f"{folder}: {layer} is no layer of the original, {units.original}.")
        sizes, wanted = tuple(tensor.shape[:2]), units.layers[layer].sizes
        if sizes != wanted:
            shown = " and ".join(" × ".join(map(str, found)) for found in (sizes, wanted))
            raise ModelError(
                f"{folder} is a ControlNet of another model than {units.original}: {layer} is "
                f"{shown}."
            )


def _layer_units(layer: str, skips: list[str], units: KeptUnits) -> LayerUnits:
    """What becomes of a layer of the ControlNet."""
    if layer == CONDITION_OUT:
        return LayerUnits(layer, (), units.layers[CONV_IN].outputs)
    if layer == MID:
        features = units.layers[MID_OUTPUT].outputs
        return LayerUnits(layer, (), features, features)
    if layer.startswith(DOWN):
        skip = skips[int(layer.rpartition(".")[2])]
        features = units.layers[skip].outputs
        staying = [name for name in skips if units.layers[name].name is not None]
        place = f"{DOWN}.{staying.index(skip)}" if skip in staying else None
        return LayerUnits(place, (), features, features)
    if layer.startswith("controlnet_"):
        return LayerUnits(layer, ())
    found = units.layers[layer]
    # the refit cuts the inputs of what reads timesteps
    return replace(found, inputs=None) if found.fitted else found


def _match_time(
    folder: Path, controlnet: Network, small: Network, units: KeptUnits, state: State
) -> float:
    widths = [network.time_embedding.linear_1.out_features for network in (controlnet, small)]
    if widths[0] == widths[1]:
        return refit_time(controlnet, small, state)
    config = config_of(controlnet)
    if config.get("addition_embed_type") or config.get("class_embed_type"):
        raise ModelError(
            f"{folder}: the time embedding of a {KIND} is as wide as its first level says, and "
            "here add_embedding, which sees the text, would have to be narrower with it: it is "
            "carried where the latents were pruned, not where the denoiser's first level was."
        )
    return fit_time(controlnet, small, units, state)


def _cut(tensor: Tensor, units: LayerUnits, leaf: str) -> Tensor:
    cut = take_units(tensor, 0, units.outputs)
    if leaf == "weight" and tensor.dim() > 1:
        cut = units.scale * take_units(cut, 1, units.inputs)
    return cut.to(tensor.dtype)
