"""What pelap knows of one class of models: the bases that every family's file builds on."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pelap.core.errors import ModelError
from pelap.core.network import Network
from pelap.families.layout import WidthLayout
from pelap.families.packing import UNPACKED, Packing
from pelap.families.ports import AutoencoderPorts, Config, DenoiserPorts, Updates

Inputs = dict[str, Any]
"""Keyword arguments of a denoiser's forward, the latents first."""
Normal = Callable[..., Tensor]
"""From a shape to standard normal values (B, *shape)."""
Widths = tuple[int, ...]
"""A UNet's channels by level, then its layers; a transformer's heads and layers."""
Layers = dict[str, list[int]]
"""Numbers of kept layers, rising, by the dotted name of their list."""

TEXT_LENGTH = 77
"""Tokens of the text in example inputs."""
EXAMPLE_TIMESTEP = 500


@dataclass(frozen=True)
class AutoencoderFamily:
    """A class of autoencoders."""

    class_name: str
    ports: AutoencoderPorts | None
    """None where the class can be opened and measured, but not pruned."""


@dataclass(frozen=True)
class Freedom:
    """What may change in a class of denoisers."""

    options: tuple[Widths, ...]
    """Values that each number may take, rising; the last is today's. First the widths, by level,
    then the counts of layers."""
    names: tuple[str, ...]
    updates: Callable[[Widths], Updates]
    """Config fields that change for these widths."""
    steps: tuple[bool, ...] = ()
    """Whether each width differs from the one before it, which must stay so: where two levels of a
    UNet are as wide, there is no shortcut convolution between them."""
    levels: tuple[tuple[int, ...], ...] = ()
    """Of each count, the levels whose layers it counts."""
    spares_first: bool = False
    """Whether the first width shall stay where it can: a UNet's first level."""

    @property
    def num_widths(self) -> int:
        """Numbers in front of the counts."""
        return len(self.options) - len(self.levels)

    def allows(self, widths: Widths) -> bool:
        """Whether levels differ where they differ today, and nowhere else."""
        pairs = zip(widths, widths[1:], self.steps, strict=False)
        return all((one != other) == differs for one, other, differs in pairs)


@dataclass(frozen=True)
class LayerList:
    """Layers of which some may go."""

    names: tuple[str, ...]
    """Dotted names of lists whose layers of the same number go together."""
    num_kept: int
    fixed: tuple[int, ...] = ()
    """Those that always stay; negative ones are counted from the end."""


class DenoiserFamily(ABC):
    """A class of denoisers: its latent layers, what it takes, and what of it may become smaller."""

    class_name: ClassVar[str]
    ports: ClassVar[DenoiserPorts]
    latents_name: ClassVar[str] = "hidden_states"
    """The argument of its forward that takes the latents."""
    shared_inputs: ClassVar[tuple[str, ...]] = ()
    """Arguments that all pictures of a batch share."""
    packing: ClassVar[Packing] = UNPACKED
    has_float_timesteps: ClassVar[bool] = False
    """Whether its schedulers stop between whole timesteps, as those of flows do."""
    timestep_divisor: ClassVar[int] = 1
    """What its pipeline divides the scheduler's timesteps by."""
    stock_pipeline: ClassVar[str] = ""
    """diffusers' pipeline of a run's networks, where the denoiser is one that runs here train."""
    can_narrow: ClassVar[bool] = False
    """Whether it has `freedom` and `layout`."""
    depth: ClassVar[tuple[str, ...]] = ()
    """Config fields that say how many layers there are."""

    @abstractmethod
    def example_inputs(self, config: Config, side: int, normal: Normal) -> Inputs:
        """Random arguments of its forward, for latents whose axes are `side` long."""

    def runs_on_latents(self, config: Config) -> bool:
        """Whether it needs noisy latents and a timestep, and nothing else."""
        return False

    def none_class(self, config: Config) -> int | None:
        """The class label that means no class; None if it takes no classes."""
        return None

    def num_classes(self, config: Config) -> int | None:
        """Class labels that it takes beside the one that means none; None if it takes no classes.

        Where it is not `none_class`, only who trained it knows whether a label means none.
        """
        return self.none_class(config)

    def largest_side(self, config: Config) -> int | None:
        """How long an axis of its latents may be; None for any length."""
        return None

    def freedom(self, denoiser: Network) -> Freedom:
        """The widths that this denoiser can have."""
        raise NotImplementedError

    def layout(self, denoiser: Network) -> WidthLayout:
        """Which axes of which weights belong together.

        Raises:
            ModelError: If this variant of the class has layers that are not known.
        """
        raise NotImplementedError

    def layer_lists(self, denoiser: Network, updates: Config) -> list[LayerList]:
        """Its lists of layers, with how many stay in a network with these config fields."""
        return []

    def depth_updates(self, config: Config, updates: Config, kept: Layers) -> Updates:
        """Those config fields of `updates` that make it as shallow, but no narrower."""
        return {field: updates[field] for field in self.depth if field in updates}

    def coarser(self, config: Config, times: int) -> Updates:
        """Config fields with patches `times` as long along each axis.

        Raises:
            ModelError: If its config does not say patches, or its latents do not divide by them.
        """
        raise ModelError(
            f"The tokens of {self.class_name} cannot be made fewer: its config says no patches."
        )

    def traceable(self, denoiser: nn.Module) -> nn.Module:
        """A denoiser that computes the same and can be traced for any number of pictures; shares
        its weights."""
        return denoiser

    def check(self, config: Config) -> None:
        """Refuse a variant whose latents reach it elsewhere than through its ports.

        Raises:
            ModelError: Names the block.
        """
        types = (*(config.get("down_block_types") or ()), *(config.get("up_block_types") or ()))
        for prefix, reason in self.ports.forbidden.items():
            for name in types:
                if str(name).startswith(prefix):
                    raise ModelError(f"The denoiser's {name} is not supported: {reason}.")

    def latents_obstacle(self, config: Config) -> str | None:
        """The config's field by which a latent channel that is not there differs from one that is
        0, and how; None if there is no such."""
        return None


def example_timestep(latents: Tensor) -> Tensor:
    """The same timestep for each of the latents (B, …), int64, (B,)."""
    return torch.full((len(latents),), EXAMPLE_TIMESTEP, device=latents.device)
