"""Which pictures of an analysis are for what."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.analysis.analysis_record import AnalysisSettings
from pelap.analysis.tiers import batch_size
from pelap.core.seeding import generator
from pelap.data.pictures import Pictures
from pelap.measure.encoded_batches import Batches
from pelap.models.conditions import Conditions


@dataclass(frozen=True)
class AnalysisParts:
    """Pictures of the pass, of the search and of the curves."""

    whole_pass: Batches
    search: Batches
    curve: Batches
    size: int
    """Height and width of a picture, pixels."""
    num_pictures: int
    """Different ones of all parts."""
    notes: list[str]


def pictures_of_pass(total: int, settings: AnalysisSettings) -> Tensor:
    """Which of so many pictures the pass takes, the only ones that a denoiser sees; int64."""
    order, num_pass = _order(total, settings)
    return order[:num_pass]


def _order(total: int, settings: AnalysisSettings) -> tuple[Tensor, int]:
    """All pictures, those of the pass first, and how many these are."""
    order = torch.randperm(total, generator=generator(settings.seed, "order"))
    return order, min(
        total, settings.num_pictures or max(total - settings.num_curve, -(-total // 2))
    )


def split_pictures(
    pictures: Pictures, settings: AnalysisSettings, conditions: Conditions | None = None
) -> AnalysisParts:
    """Which pictures are for what; ValueError if there are none.

    Args:
        pictures: To choose from.
        settings: How many of them.
        conditions: What the denoiser is told of each.
    """
    total = len(pictures)
    if total == 0:
        raise ValueError("There are no pictures to analyse the model with.")
    size = pictures.fetch(torch.arange(1)).shape[-1]
    order, num_pass = _order(total, settings)
    chosen, apart, notes = order[:num_pass], order[num_pass:], []
    wanted = min(settings.num_curve, total)
    if len(apart) < min(wanted, -(-num_pass // 4)):
        apart = order.flip(0)
        notes.append("The curves were measured on pictures of the pass: no others were left.")
    elif len(apart) < wanted:
        notes.append(f"Only {len(apart)} pictures were left for the curves.")

    def batches(indices: Tensor, told: Conditions | None = None) -> Batches:
        each = batch_size(settings, size)
        return Batches(pictures, indices.sort().values, each, settings.seed, told)

    return AnalysisParts(
        batches(chosen, conditions),
        batches(chosen[: settings.num_search]),
        batches(apart[: settings.num_curve]),
        size,
        len({*chosen.tolist(), *apart[: settings.num_curve].tolist()}),
        notes,
    )
