"""A model of the same class from changed weights and a changed config."""

import copy
import inspect
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin
from torch import Tensor, nn

from pelap.core.network import Network
from pelap.families.ports import State, Updates

HISTORY = "_pelap"
"""Field of a config, no argument of a class: what was done before."""
RUNTIME_SWITCHES = ("use_slicing", "use_tiling")


def rebuild(model: nn.Module, updates: Updates, state: State) -> nn.Module:
    """`model` with other config fields and the weights in `state`, in evaluation mode.

    Weights that did not change are shared with `model`, not copied.

    Args:
        model: A diffusers model, or any module whose convolutions and linear layers are named as
            in `state`.
        updates: Config fields that change.
        state: Every tensor of the new model's `state_dict`.
    """
    if not isinstance(model, ConfigMixin):
        return _replace_layers(model, updates, state)
    new = empty(model, updates)
    new.load_state_dict(state, strict=True, assign=True)
    for name in RUNTIME_SWITCHES:
        if hasattr(model, name):
            setattr(new, name, getattr(model, name))
    return new.eval().requires_grad_(any(p.requires_grad for p in model.parameters()))


def empty(model: nn.Module, updates: Updates) -> Network:
    """A model of the same class and another config, with buffers but without weights."""
    with init_empty_weights(include_buffers=False):
        new: Network = type(model).from_config(_config(model, updates)).eval()  # type: ignore[attr-defined]
    config: Any = model.config
    if HISTORY in config:
        new.register_to_config(**{HISTORY: config[HISTORY]})
    return new


def weightless(model: nn.Module, updates: Updates) -> Network:
    """A model of the same class and another config on the meta device, in evaluation mode."""
    with torch.device("meta"):
        return type(model).from_config(_config(model, updates)).eval()  # type: ignore[attr-defined]


def _config(model: Network, updates: Updates) -> Updates:
    # neither what classes add themselves, nor _use_default_values, which would bring defaults back
    known = inspect.signature(type(model).__init__).parameters
    return {name: value for name, value in model.config.items() if name in known} | updates


def _replace_layers(model: nn.Module, updates: Updates, state: State) -> nn.Module:
    new = copy.deepcopy(model)
    for name, old in list(new.named_parameters()):
        if state[name].shape != old.shape:
            owner, _, leaf = name.rpartition(".")
            layer: Any = new.get_submodule(owner)
            setattr(layer, leaf, nn.Parameter(state[name], requires_grad=old.requires_grad))
            if leaf == "weight":
                _note_sizes(layer, state[name])
    new.load_state_dict(state, strict=True)
    for name, value in updates.items():
        if hasattr(new, name):
            setattr(new, name, value)
    return new.eval()


def _note_sizes(layer: Network, weight: Tensor) -> None:
    outputs, inputs = weight.shape[:2]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = outputs, inputs
    elif isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = outputs, inputs
    elif isinstance(layer, torch.nn.modules.conv._ConvNd):
        layer.out_channels, layer.in_channels = inputs, outputs
