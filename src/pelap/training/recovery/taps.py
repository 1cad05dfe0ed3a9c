"""What leaves the blocks of student and teacher, so that one can learn the other's."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pelap.core.json_values import JsonObject
from pelap.models.loaded import LoadedModel

BLOCK_LISTS = ("down_blocks", "up_blocks")


@dataclass(frozen=True)
class Tap:
    """A block of the student, and the block of the teacher whose features it should give."""

    student: str
    """Dotted name, in the student's denoiser."""
    teacher: str
    """Dotted name, in the teacher's denoiser."""
    features: Tensor | None
    """The teacher's features that the student kept, in its order, int64 (D,); None: all."""


class Listener:
    """Keeps what leaves some modules of a network at its last call.

    Args:
        network: Gets forward hooks, for good.
        names: Of its modules.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]):
        self.heard: list[Tensor | None] = [None] * len(names)
        for place, name in enumerate(names):
            network.get_submodule(name).register_forward_hook(partial(self._keep, place))

    def _keep(
        self, place: int, _module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> None:
        self.heard[place] = output[0] if isinstance(output, tuple) else output

    def take(self) -> list[Tensor]:
        """Features (B, D, h, w) in the order of the names, each once."""
        taken = [features for features in self.heard if features is not None]
        assert len(taken) == len(self.heard)
        self.heard = [None] * len(self.heard)
        return taken


def prunings_of(model: LoadedModel) -> list[JsonObject]:
    """What its history says of prunings, oldest first."""
    return [entry for entry in model.history if "channels_before" in entry]


def find_taps(student: LoadedModel, teacher: LoadedModel) -> list[Tap]:
    """Blocks to compare: those that the record of the student's prunings names, or all of a UNet.

    Both must have passed `find_encode`. None where the denoiser is no UNet of diffusers.
    """
    if not hasattr(student.denoiser, "down_blocks"):
        return []
    unet: Any = student.denoiser
    blocks = [f"{owner}.{n}" for owner in BLOCK_LISTS for n in range(len(getattr(unet, owner)))]
    blocks += ["mid_block"] if unet.mid_block is not None else []
    taps = {name: Tap(name, name, None) for name in blocks}
    for record in reversed(prunings_of(student)[len(prunings_of(teacher)) :]):
        kept = record.get("width", {}).get("features", {})
        if kept:
            taps = {name: _through(tap, *kept[tap.teacher]) for name, tap in taps.items()}
    return list(taps.values())


def _through(tap: Tap, teacher: str, kept: list[int]) -> Tap:
    """The same tap, one pruning earlier."""
    features = torch.tensor(kept)
    return Tap(tap.student, teacher, features if tap.features is None else features[tap.features])


def relative_feature_loss(given: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over blocks of the squared error relative to the variance of what is wanted.

    As feature distillation of narrower denoisers does (Kim et al., arXiv 2305.15798), made
    scale-free.

    Args:
        given: The student's features, (B, D, …) each.
        wanted: The teacher's at the same places.
    """
    losses = [
        (ours - theirs).square().mean() / theirs.var(correction=0).clamp(min=1e-12)
        for ours, theirs in zip(given, wanted, strict=True)
    ]
    return torch.stack(losses).mean()
