"""The same prompts and seeds drawn by several models: the pictures, and how far they are apart.

No torch here.
"""

from dataclasses import dataclass

import numpy as np

from pelap.core.json_values import JsonObject


@dataclass(frozen=True)
class Difference:
    """A picture, or all of a model, beside the reference's."""

    psnr_db: float | None
    """None where the pictures are the same."""
    features: float | None
    """Euclidean distance of features; None without a network that judges."""


@dataclass(frozen=True, eq=False)
class DrawnColumn:
    """What one model drew."""

    name: str
    pictures: tuple[np.ndarray, ...]
    """uint8, (H, W, 3), a row each."""
    noise: str
    """Where its first noise came from, in words; "" where it is the reference's own."""
    differences: tuple[Difference, ...] = ()
    """A row each; empty for the reference."""
    mean: Difference | None = None
    """The PSNR of the mean squared error over rows, and the mean distance of features."""


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Rows of prompts, columns of models, the reference first."""

    rows: tuple[str, ...]
    """Prompts, classes or seeds."""
    columns: tuple[DrawnColumn, ...]
    extractor: str | None
    """Name of the network that the features are of."""
    between_rows: float | None
    """Mean distance of features of the reference's pictures of different rows: another picture."""
    settings: str
    """Steps and guidance in words."""

    def as_dict(self) -> JsonObject:
        """All but the pictures."""
        return {
            "rows": list(self.rows),
            "extractor": self.extractor,
            "features_between_rows": self.between_rows,
            "settings": self.settings,
            "models": [
                {
                    "label": column.name,
                    "noise": column.noise or "the reference's own",
                    "rows": [vars(difference) for difference in column.differences],
                    "mean": None if column.mean is None else vars(column.mean),
                }
                for column in self.columns
            ],
        }
