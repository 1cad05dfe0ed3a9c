"""Low-rank additions to a denoiser's attention and feed-forward layers, by peft."""

import re
from typing import Any

import torch
from torch import nn

from pelap.core.errors import ConfigError

ADAPTED = re.compile(r"(^|\.)(attn\w*|attentions?|ff\w*|mlp|proj_mlp)(\.|$)")
"""What the names of attention and feed-forward layers have in diffusers' denoisers."""


def add_adapters(
    denoiser: nn.Module, rank: int, seed: int, without: tuple[str | None, ...]
) -> dict[str, nn.Parameter]:
    """Give the denoiser adapters that add nothing yet (Hu et al., arXiv 2106.09685).

    Args:
        denoiser: Changed in place.
        rank: Of each adapter, at most.
        seed: Of their first weights.
        without: Layers that get none.

    Returns:
        The adapters' weights by name.

    Raises:
        ConfigError: If it has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model  # type: ignore[import-not-found]

    layers = [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and ADAPTED.search(name) and name not in without
    ]
    if not layers:
        raise ConfigError(
            f"--train lora: {type(denoiser).__name__} has no attention or feed-forward layers; "
            "give --train all."
        )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, denoiser)
    return {name: weight for name, weight in denoiser.named_parameters() if ".lora_" in name}


def merge_adapters(denoiser: nn.Module) -> None:
    """Add the adapters to the weights, and leave the denoiser as it was built."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # type: ignore[import-not-found]

    found: Any = list(denoiser.named_modules())
    for name, layer in found:
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            denoiser.set_submodule(name, layer.get_base_layer())
    if hasattr(denoiser, "peft_config"):
        del denoiser.peft_config
