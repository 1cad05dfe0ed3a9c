"""What a denoiser is told of each picture, as its own pipeline would say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pelap.core.errors import ModelError
from pelap.core.progress import track
from pelap.data.pictures import Splits
from pelap.families.conditioned import Told
from pelap.families.registry import denoiser_family
from pelap.models.loaded import LoadedModel
from pelap.models.unconditional import caught_arguments, without_condition

PROMPTS_AT_A_TIME = 16


@dataclass(frozen=True)
class Conditions:
    """What a denoiser is told of each of some pictures."""

    arguments: Told
    """Of the denoiser's forward: a row for nothing, then one for each distinct prompt or class."""
    rows: Tensor
    """int64, (N,): the row of each picture."""
    kind: str = "captions"
    """What the pictures have: captions or classes."""

    def tell(self, indices: Tensor, drops: Tensor | None = None) -> Told:
        """What is said of the pictures at `indices` (B,).

        Args:
            indices: int64, (B,).
            drops: Which pictures nothing is said of, bool, (B,).
        """
        rows = self.rows[indices]
        return _take(self.arguments, rows if drops is None else rows.masked_fill(drops, 0))


def find_conditions(
    model: LoadedModel, splits: Splits, size: int, limit: int | None = None
) -> tuple[LoadedModel, tuple[Conditions, Conditions] | None]:
    """The model with its empty condition, and what it is told of the pictures of both splits.

    A text model is told captions, a class model the pictures' classes where it has as many.

    Args:
        model: With a denoiser.
        splits: Its pictures.
        size: Of the pictures, in pixels.
        limit: Ask for the first so many pictures of each split only.

    Returns:
        The model itself and None where it wants no condition, has one already, or the pictures
        have neither captions nor its classes.

    Raises:
        ModelError: If its pipeline cannot be called.
    """
    if model.denoiser is None or model.condition is not None or not model.parts:
        return model, None
    config: Any = model.denoiser.config
    none = denoiser_family(model.denoiser).none_class(config)
    both = (splits.train, splits.test)
    if none is None and all(pictures.captions is None for pictures in both):
        return model, None
    if none is not None and none != len(splits.train.class_names):
        return model, None
    told = without_condition(model, size)
    if told is model:
        return model, None
    if none is not None:
        labels = {"class_labels": torch.tensor([none, *range(none)])}
        train, test = (Conditions(labels, p.labels[:limit] + 1, "classes") for p in both)
        return told, (train, test)
    captions = [(pictures.captions or ("",) * len(pictures))[:limit] for pictures in both]
    places = {"": 0}
    for text in (text for said in captions for text in said):
        places.setdefault(text, len(places))
    arguments = _read(told, list(places), size)
    train, test = (
        Conditions(arguments, torch.tensor([places[text] for text in said])) for said in captions
    )
    return told, (train, test)


def _read(model: LoadedModel, prompts: Sequence[str], size: int) -> Told:
    """A row a prompt of all that differs between them."""
    assert model.condition is not None
    starts = track(range(0, len(prompts), PROMPTS_AT_A_TIME), "Encoding captions")
    groups = [prompts[start : start + PROMPTS_AT_A_TIME] for start in starts]
    pipeline = model.pipeline()
    parts = [caught_arguments(model, pipeline, group, size)[0] for group in groups]
    names = [name for name in model.condition.arguments if name not in model.condition.shared]
    sizes = [len(group) for group in groups]
    told = {name: _joined([part[name] for part in parts], sizes, name) for name in names}
    return {name: value for name, value in told.items() if isinstance(value, Tensor | dict)}


def _joined(values: list[Any], sizes: list[int], name: str) -> Any:
    """The rows of all parts below each other; of what is no tensor, the first."""
    if isinstance(values[0], dict):
        return {key: _joined([value[key] for value in values], sizes, key) for key in values[0]}
    if not isinstance(values[0], Tensor):
        return values[0]
    for value, num in zip(values, sizes, strict=True):
        if value.dim() == 0 or len(value) != num or value.shape[1:] != values[0].shape[1:]:
            raise ModelError(
                f"The pipeline passes {name} of shape {tuple(value.shape)} for {num} captions: "
                "a row for each is needed, all of one shape. Give --unconditional."
            )
    return torch.cat(values)


def _take(arguments: Told, rows: Tensor) -> Told:
    """The same arguments, with some of their rows."""
    return {
        name: _take(value, rows)
        if isinstance(value, dict)
        else value[rows.to(value.device)]
        if isinstance(value, Tensor)
        else value
        for name, value in arguments.items()
    }
