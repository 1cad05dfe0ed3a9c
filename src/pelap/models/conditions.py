"""What a denoiser is told of each picture, as its own pipeline would say it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.core.errors import ConfigError
from pelap.data.pictures import Pictures, Splits
from pelap.families.conditioned import Told
from pelap.families.registry import config_of, denoiser_families, denoiser_family
from pelap.models.loaded import LoadedModel, runs_on_latents
from pelap.models.told_rows import RowsInMemory, ToldRows, read_told
from pelap.models.unconditional import has_only_classes, told_a_class, without_condition

NONE = torch.empty(0, dtype=torch.int64)
"""No pictures."""


@dataclass(frozen=True)
class Conditions:
    """What a denoiser is told of each of some pictures."""

    told: ToldRows
    """Of the denoiser's forward: a row for nothing, then one for each distinct caption or class."""
    rows: Tensor
    """int64, (N,): the row of each picture."""
    kind: str = "captions"
    """What the pictures have: captions or classes."""
    has_none: bool = True
    """Whether the denoiser can be told nothing; one that cannot goes on being told."""

    def tell(self, indices: Tensor, drops: Tensor | None = None) -> Told:
        """What is said of the pictures at `indices` (B,).

        Args:
            indices: int64, (B,).
            drops: Which pictures nothing is said of, bool, (B,).
        """
        rows = self.rows[indices]
        if drops is not None and self.has_none:
            rows = rows.masked_fill(drops, 0)
        return self.told.take(rows)


def wants_condition(model: LoadedModel) -> bool:
    """Whether the denoiser of a pipeline takes text or classes, and nothing is said of them yet."""
    denoiser = model.denoiser
    if denoiser is None or model.condition is not None or not model.parts:
        return False
    return type(denoiser).__name__ in denoiser_families() and not runs_on_latents(denoiser)


def known_classes(model: LoadedModel) -> tuple[str, ...] | None:
    """The classes that its denoiser takes, by name where the pipeline has names; None for none."""
    if model.denoiser is None or type(model.denoiser).__name__ not in denoiser_families():
        return None
    config = config_of(model.denoiser)
    family = denoiser_family(model.denoiser)
    of_a_run = model.config is not None
    number = family.none_class(config) if of_a_run else family.num_classes(config)
    names = tuple((model.parts.get("id2label") or {}).values())
    return None if number is None else names or tuple(map(str, range(number)))


def check_told(model: LoadedModel, splits: Splits, way_on: str = "") -> None:
    """Refuse pictures that have neither the captions nor the classes that a denoiser takes.

    Args:
        model: With a denoiser.
        splits: Its pictures.
        way_on: A further one, as "; …".

    Raises:
        ConfigError: Says what was looked for, and the ways on.
    """
    missing = describe_untold(model, splits)
    if missing is not None:
        ways = f"or give --unconditional and it will no longer follow them{way_on}."
        raise ConfigError(f"{missing}, {ways}")


def describe_untold(model: LoadedModel, splits: Splits) -> str | None:
    """What a denoiser takes that the pictures do not have, and two ways on; None if nothing."""
    if not wants_condition(model) or _are_told(model, splits):
        return None
    classes = known_classes(model)
    if classes is None:
        return (
            f"{model.name} takes text, and the pictures have no captions (looked for text, caption "
            "or prompt in metadata.jsonl or .csv or a column, and for .txt beside them): name the "
            "column with --data.caption-column, give --prompts FILE in place of pictures"
        )
    return (
        f"{model.name} takes one of {len(classes):,} classes, and the pictures have "
        f"{len(splits.train.class_names):,}: give pictures of its classes, --prompts classes in "
        "place of pictures"
    )


def _are_told(model: LoadedModel, splits: Splits) -> bool:
    classes = known_classes(model)
    if classes is not None:
        return len(classes) == len(splits.train.class_names)
    return any(pictures.captions is not None for pictures in (splits.train, splits.test))


def find_conditions(
    model: LoadedModel,
    splits: Splits,
    size: int,
    train: Tensor | None = None,
    test: Tensor | None = None,
) -> tuple[LoadedModel, tuple[Conditions, Conditions] | None]:
    """The model with its empty condition, and what it is told of the pictures of both splits.

    A text model is told captions, a class model the pictures' classes where it has as many.

    Args:
        model: With a denoiser.
        splits: Its pictures.
        size: Of the pictures, in pixels.
        train: Ask for the captions of these training pictures only, int64.
        test: Likewise of test pictures.

    Returns:
        The model itself and None where it wants no condition, has one already, or the pictures
        have neither captions nor its classes.

    Raises:
        ModelError: If its pipeline cannot be called.
    """
    if not wants_condition(model) or not _are_told(model, splits):
        return model, None
    classes, both = known_classes(model), (splits.train, splits.test)
    has_none = model.config is not None or not has_only_classes(model.denoiser)  # type: ignore
    told = without_condition(model, size) if has_none else told_a_class(model)
    if classes is not None:
        none = told.condition.arguments["class_labels"].flatten().tolist()  # type: ignore
        labels = RowsInMemory({"class_labels": torch.tensor([*none, *range(len(classes))])})
        of_train, of_test = (Conditions(labels, p.labels + 1, "classes", has_none) for p in both)
        return told, (of_train, of_test)
    asked = [_captions(splits.train, train), _captions(splits.test, test)]
    places = {text: row for row, text in enumerate(dict.fromkeys(["", *asked[0], *asked[1]]))}
    rows = read_told(told, list(places), size)
    of_train, of_test = (
        Conditions(rows, torch.tensor([places[text] for text in said])) for said in asked
    )
    return told, (of_train, of_test)


def _captions(pictures: Pictures, chosen: Tensor | None) -> list[str]:
    """Of each picture; empty of those that have none or are not asked for."""
    captions = list(pictures.captions or ("",) * len(pictures))
    if chosen is None:
        return captions
    wanted = set(chosen.tolist())
    return [text if index in wanted else "" for index, text in enumerate(captions)]
