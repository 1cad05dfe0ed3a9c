"""What a narrower network computes differently although no weight says so, and its repair."""

import torch
from torch import Tensor

from pelap.core.network import Network
from pelap.families.ports import State

NUM_TIMESTEPS = 1000


def refit_time(old: Network, new: Network, state: State) -> float:
    """Refit the layers behind the sinusoidal time embedding by least squares over all timesteps.

    A UNet takes the embedding's width from its first level, so with a narrower one the frequencies
    differ. The layers' inputs change; what they give should not. There is a second such layer where
    a number stands for the class.

    Args:
        old: The UNet.
        new: The narrower one, of which `time_proj` is used.
        state: Weights of the narrower one, changed in place.

    Returns:
        Root mean square of what is left, over that of what the layer gave around its mean, of the
        layer where it is largest; 0 where the width is the same.
    """
    before, after = _embedded_steps(old, new)
    if before.shape == after.shape:
        return 0.0
    return max(_refit(name, before, after, state) for name in timed_layers(old))


def timed_layers(unet: Network) -> list[str]:
    """Layers that read sinusoidal embeddings."""
    names = ["time_embedding.linear_1"]
    if unet.config.get("class_embed_type") == "timestep":
        names.append("class_embedding.linear_1")
    return names


def mix_time(old: Network, new: Network) -> Tensor | None:
    """What maps the inputs of a change of these layers (adapters have no bias), by least squares.

    Returns:
        (new width, old width), float64; None where the width is the same.
    """
    before, after = _embedded_steps(old, new)
    if before.shape == after.shape:
        return None
    return torch.linalg.lstsq(after, before, driver="gelsd").solution


def _embedded_steps(old: Network, new: Network) -> tuple[Tensor, Tensor]:
    """All timesteps as each embeds them, (T, old width) and (T, new width)."""
    steps = torch.arange(old.config.get("num_train_timesteps") or NUM_TIMESTEPS)
    return old.time_proj(steps).double(), new.time_proj(steps).double()


def _refit(name: str, before: Tensor, after: Tensor, state: State) -> float:
    """One layer, whose inputs (T, old width) become (T, new width)."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    given = before @ weight.double().T + bias.double()  # (T, embedding)
    ones = torch.ones(len(after), 1, dtype=torch.float64)
    fit = torch.linalg.lstsq(torch.cat([after, ones], dim=1), given, driver="gelsd").solution
    state[f"{name}.weight"] = fit[:-1].T.to(weight)
    state[f"{name}.bias"] = fit[-1].to(bias)
    left = torch.cat([after, ones], dim=1) @ fit - given
    return float(left.square().mean().sqrt() / (given - given.mean(dim=0)).square().mean().sqrt())


def match_positions(old: Tensor, new: Tensor, kept: Tensor) -> tuple[Tensor, float]:
    """Order kept features so that the new position table resembles the old one at them.

    A transformer computes its sinusoidal positions from its width, so a narrower one adds other
    frequencies. Which kept feature becomes which of the new ones is free.

    Args:
        old: Position table (positions, D).
        new: That of the narrower network, (positions, K).
        kept: Features that stay, (K,).

    Returns:
        The same features in the order to store them, and what differs: root mean square over that
        of the old table at the kept features, both around their means.
    """
    from scipy.optimize import linear_sum_assignment

    old, new = old.double(), new.double()
    old, new = old - old.mean(dim=0), new - new.mean(dim=0)
    cost = torch.cdist(old[:, kept].T, new.T).square()  # (K, K)
    rows, columns = linear_sum_assignment(cost.numpy())
    order = torch.empty_like(kept)
    order[torch.as_tensor(columns)] = kept[torch.as_tensor(rows)]
    error = (old[:, order] - new).square().mean().sqrt()
    size = old[:, kept].square().mean().sqrt()
    return order, float(error / size) if size > 0 else 0.0
