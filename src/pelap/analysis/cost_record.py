"""How often an analysis runs the autoencoder. No torch here: plan, JSON and page read it."""

from dataclasses import dataclass
from typing import Literal

Effort = Literal["fast", "normal", "exact"]
"""How much of what could be decoded is: `exact` decodes all of it."""


@dataclass(frozen=True)
class StageCost:
    """Calls of one stage, in whole pictures: a crop counts by its share of the pixels."""

    stage: str
    encodes: float
    decodes: float
    backward: float
    """Passes back through the decoder."""


@dataclass(frozen=True)
class AnalysisCost:
    """Calls of all stages; counted, or at most so many in a plan."""

    num_pictures: int
    """Different pictures of all stages."""
    crop_size: int | None
    """Height and width in pixels of the crops that stand for pictures in the expensive stages; None
    where pictures are decoded whole."""
    stages: list[StageCost]

    def per_picture(self, kind: Literal["encodes", "decodes", "backward"]) -> float:
        """Calls of that kind a picture, of all stages."""
        return sum(getattr(stage, kind) for stage in self.stages) / self.num_pictures

    def describe(self) -> str:
        """A table by stage, in calls a picture."""
        lines = [f"{'calls a picture':24} {'encodes':>8} {'decodes':>8} {'backward':>8}"]
        for stage in self.stages:
            numbers = (stage.encodes, stage.decodes, stage.backward)
            lines.append(_row(stage.stage, [number / self.num_pictures for number in numbers]))
        totals = [self.per_picture(kind) for kind in ("encodes", "decodes", "backward")]
        return "\n".join([*lines, _row("together", totals), self.words()])

    def say(self) -> str:
        """Decodes, passes back and encodes a picture, a sentence."""
        decodes, backward, encodes = (
            self.per_picture(kind) for kind in ("decodes", "backward", "encodes")
        )
        return (
            f"{decodes:.1f} decodes, {backward:.1f} passes back through the decoder and "
            f"{encodes:.1f} encodes a picture. {self.words()}"
        )

    def words(self) -> str:
        """What the numbers are of, a sentence."""
        crops = ""
        if self.crop_size is not None:
            crops = (
                f"; crops of {self.crop_size} pixels, in the expensive stages, count by their share"
            )
        return f"Of {self.num_pictures:,} pictures{crops}."


def _row(name: str, numbers: list[float]) -> str:
    return f"{name:24} " + " ".join(f"{number:8.1f}" for number in numbers)
