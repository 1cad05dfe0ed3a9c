"""Random LoRAs of tiny denoisers, by any names, and what stock peft makes of them."""

from typing import Any

import torch
from torch import Tensor, nn

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Down (r, inputs, …) and up (outputs, r, …) by layer."""


def random_pairs(denoiser: nn.Module, rank: int = 2, match: str = "", seed: int = 0) -> Pairs:
    """Of every linear layer and convolution whose name holds `match`; ranks differ by layer."""
    source, found = torch.Generator().manual_seed(seed), {}
    for number, (name, layer) in enumerate(denoiser.named_modules()):
        if match not in name or not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if getattr(layer, "groups", 1) > 1:  # peft cannot adapt them
            continue
        size, own = layer.weight.shape, rank + number % 2
        down = 0.3 * torch.randn(own, *size[1:], generator=source)
        up = 0.3 * torch.randn(size[0], own, *([1] * (len(size) - 2)), generator=source)
        found[name] = (down, up)
    return found


def by_peft_names(pairs: Pairs, part: str) -> dict[str, Tensor]:
    """As diffusers writes them today."""
    prefix = f"{part}." if part else ""
    return {
        f"{prefix}{name}.lora_{letter}.weight": tensor
        for name, pair in pairs.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }


@torch.no_grad()
def fuse(denoiser: Any, pairs: Pairs, scale: float = 1.0) -> Any:
    """Add scale · up · down to the weights, in place."""
    for name, (down, up) in pairs.items():
        weight = denoiser.get_submodule(name).weight
        weight += scale * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    return denoiser
