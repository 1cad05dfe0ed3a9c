"""How far the denoisers of several models are from the reference's: a table, and words."""

from collections.abc import Mapping

from pelap.measure.denoiser_fidelity import DenoiserFidelity
from pelap.pages.numbers import ABSENT
from pelap.pages.page import Section, Text, text_table


def fidelity_section(found: Mapping[str, DenoiserFidelity], reference: str) -> Section:
    """A row a model: over all noise levels, at each of them, and what it still follows."""
    first = next(iter(found.values()))
    levels = [f"t = {timestep}" for timestep in first.timesteps]
    rows = [
        [
            name,
            f"{one.relative_error:.1%}",
            ABSENT if one.followed is None else f"{one.followed:.2f}",
            *(f"{error:.1%}" for error in one.relative_errors),
        ]
        for name, one in found.items()
    ]
    header = ["model", "prediction differs ↓", "follows what it is told ↑", *levels]
    note = (
        f"On {first.num_pictures:,} test pictures with the same noise: the difference from the "
        f"prediction of {reference}, over the size of that; and how much is left of what being "
        "told changes in it (1: all, 0: nothing)."
    )
    return Section(
        "What the denoisers predict", [text_table(header, rows, "figures"), Text(note, "note")]
    )


def describe_fidelity(found: Mapping[str, DenoiserFidelity], reference: str) -> list[str]:
    """A sentence a model."""
    return [
        f"{name} predicts {one.relative_error:.1%} apart from {reference}"
        + (f", and follows {one.followed:.2f} of what it is told" if one.followed else "")
        + ("; it needs recovery." if one.needs_recovery else ".")
        for name, one in found.items()
    ]
