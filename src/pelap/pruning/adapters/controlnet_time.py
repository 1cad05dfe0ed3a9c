"""The time embedding of a narrower ControlNet: its class takes the width from the first level.

A UNet's config can keep its time embedding as wide as it was, a ControlNet's cannot. What its
layers get from it is a function of the timestep alone, so a narrower embedding is fitted to give
them the same at every timestep.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from pelap.core.network import Network
from pelap.families.ports import State
from pelap.models.kept_units import KeptUnits, take_units

LINEARS = ("time_embedding.linear_1", "time_embedding.linear_2")
READER = ".time_emb_proj"
NUM_TIMESTEPS = 1000


def fit_time(controlnet: Network, small: Network, units: KeptUnits, state: State) -> float:
    """Write the layers of the time embedding, and those that read it, into `state`.

    The embedding takes every n-th of the old units; each layer that reads it gets the weights and
    the bias that give what it gave, by least squares over all timesteps.

    Args:
        controlnet: Of the original.
        small: The narrower one, of which the shapes and `time_proj` are used.
        units: What becomes of each layer.
        state: Weights of the narrower one, changed in place.

    Returns:
        Root mean square of what is left, over that of what the layers gave around its mean, of the
        layer where it is largest.
    """
    steps = torch.arange(NUM_TIMESTEPS)
    weights = {name: tensor.double() for name, tensor in controlnet.state_dict().items()}
    wide = _embed(controlnet.time_proj(steps).double(), weights)  # (T, E)
    width = small.time_embedding.linear_1.out_features
    chosen = torch.linspace(0, wide.shape[1] - 1, width).round().long()
    narrow_time = small.time_proj(steps).double()  # (T, D)
    first = weights[f"{LINEARS[0]}.weight"][chosen]  # (E', D old)
    hidden = controlnet.time_proj(steps).double() @ first.T + weights[f"{LINEARS[0]}.bias"][chosen]
    found = dict(zip(("weight", "bias"), _fit(narrow_time, hidden), strict=True))
    second = weights[f"{LINEARS[1]}.weight"][chosen][:, chosen]
    own = {
        **{f"{LINEARS[0]}.{leaf}": tensor for leaf, tensor in found.items()},
        f"{LINEARS[1]}.weight": second,
        f"{LINEARS[1]}.bias": weights[f"{LINEARS[1]}.bias"][chosen],
    }
    seen = silu(_embed(narrow_time, own))  # (T, E')
    worst = 0.0
    for name, layer in units.layers.items():
        if not name.endswith(READER) or layer.name is None or f"{name}.weight" not in weights:
            continue
        given = silu(wide) @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        wanted = take_units(given, 1, layer.outputs)  # (T, features)
        weight, bias = _fit(seen, wanted)
        left = seen @ weight.T + bias - wanted
        spread = (wanted - wanted.mean(dim=0)).square().mean().sqrt()
        worst = max(worst, float(left.square().mean().sqrt() / spread))
        own |= {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}
    dtypes = {name: tensor.dtype for name, tensor in small.state_dict().items()}
    state.update({name: tensor.to(dtypes[name]) for name, tensor in own.items()})
    return worst


def _embed(time: Tensor, weights: State) -> Tensor:
    """The embedding (T, E) of sinusoids (T, D)."""
    hidden = silu(time @ weights[f"{LINEARS[0]}.weight"].T + weights[f"{LINEARS[0]}.bias"])
    return hidden @ weights[f"{LINEARS[1]}.weight"].T + weights[f"{LINEARS[1]}.bias"]


def _fit(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer from (T, D) to (T, F), by least squares."""
    ones = torch.ones(len(inputs), 1, dtype=inputs.dtype)
    fit = torch.linalg.lstsq(torch.cat([inputs, ones], dim=1), outputs, driver="gelsd").solution
    return fit[:-1].T.contiguous(), fit[-1]
