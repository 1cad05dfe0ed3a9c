"""The family of a model, by the name of its class; every file of this room is looked through."""

import importlib
import pkgutil
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import pelap.families
from pelap.core.errors import ModelError
from pelap.families.family import AutoencoderFamily, DenoiserFamily, Inputs
from pelap.families.ports import AutoencoderPorts, Config, DenoiserPorts

LATENT_SIDE = 32
"""Where the config names no `sample_size`."""

Family = TypeVar("Family", AutoencoderFamily, DenoiserFamily)
Found = TypeVar("Found")


@cache
def autoencoder_families() -> dict[str, AutoencoderFamily]:
    """Every known class of autoencoders, by name."""
    return _families(AutoencoderFamily)


@cache
def denoiser_families() -> dict[str, DenoiserFamily]:
    """Every known class of denoisers, by name."""
    return _families(DenoiserFamily)


def _families(kind: type[Family]) -> dict[str, Family]:
    """Those of a kind that the room's files list as FAMILIES."""
    names = [module.name for module in pkgutil.iter_modules(pelap.families.__path__)]
    modules = [importlib.import_module(f"{pelap.families.__name__}.{name}") for name in names]
    families = [family for module in modules for family in getattr(module, "FAMILIES", ())]
    return {family.class_name: family for family in families if isinstance(family, kind)}


def denoiser_family(denoiser: nn.Module | str) -> DenoiserFamily:
    """The family of a denoiser, or of a class name.

    Raises:
        ModelError: If it is unknown.
    """
    return _find(denoiser_families(), denoiser, "denoiser")


def autoencoder_ports(autoencoder: nn.Module) -> AutoencoderPorts:
    """The ports of an autoencoder: its own, or those of its family.

    Raises:
        ModelError: If neither is known.
    """
    own = getattr(autoencoder, "ports", None)
    if isinstance(own, AutoencoderPorts):
        return own
    prunable = {name: f.ports for name, f in autoencoder_families().items() if f.ports is not None}
    return _find(prunable, autoencoder, "autoencoder")


def denoiser_ports(denoiser: nn.Module) -> DenoiserPorts:
    """The ports of a denoiser.

    Raises:
        ModelError: If its class, or one of its blocks, is not supported.
    """
    family = denoiser_family(denoiser)
    family.check(config_of(denoiser))
    return family.ports


def check_denoiser(denoiser: nn.Module, num_channels: int) -> None:
    """Refuse a denoiser whose latents have another number of channels.

    Raises:
        ModelError: Names both numbers.
    """
    ports, config = denoiser_ports(denoiser), config_of(denoiser)
    fields = (config.get(name) for name in ("latent_channels", "out_channels", "in_channels"))
    found = next(value for value in fields if value is not None) // ports.output.inner
    if found not in (num_channels, 2 * num_channels):
        raise ModelError(
            f"The denoiser {type(denoiser).__name__} predicts {found} latent channels, "
            f"the autoencoder has {num_channels}: they do not belong together."
        )
    layer: Any = denoiser.get_submodule(ports.input.layer)
    ports.input.count_others(layer.weight.shape[1], num_channels)


def example_inputs(
    denoiser: nn.Module, num_pictures: int = 1, side: int | None = None, seed: int = 0
) -> Inputs:
    """Keyword arguments of `denoiser.forward`, with random values, on its device and in its
    precision: to count, time, trace and export it.

    Latents, timestep and every condition that its config asks for: text, classes, sizes, positions.
    The latents come first, packed where its pipeline packs them.

    Args:
        denoiser: Of a known class.
        num_pictures: B.
        side: Length of each axis of the latents; by default what the model was made for.
        seed: Of the random values.

    Raises:
        ModelError: If the class is unknown.
    """
    family = denoiser_family(denoiser)
    parameter = next(denoiser.parameters())
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(num_pictures, *shape, generator=source)
        return values.to(parameter.device, parameter.dtype)

    return family.example_inputs(config_of(denoiser), side or latent_side(denoiser), normal)


def latent_side(denoiser: nn.Module) -> int:
    """Height and width of the latents that a denoiser was made for."""
    found = config_of(denoiser).get("sample_size")
    return found if isinstance(found, int) else LATENT_SIDE


def config_of(network: nn.Module | None) -> Config:
    """What a network of diffusers was built from."""
    config: Any = network.config  # type: ignore[union-attr]
    return config


def _find(table: dict[str, Found], model: nn.Module | str, role: str) -> Found:
    name = model if isinstance(model, str) else type(model).__name__
    if name not in table:
        raise ModelError(
            f"The {role} {name} is not supported; known are {', '.join(table)}. "
            "docs/families.md shows how to add one."
        )
    return table[name]
