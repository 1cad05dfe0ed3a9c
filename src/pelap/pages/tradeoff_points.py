"""One model of a trade-off: what it is, how good, and at what cost. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pelap.core.json_values import JsonObject
from pelap.pages.numbers import loss, quantity, significant

Role = Literal["unpruned", "random", "pruned"]
PSNR, NOISE_LOSS = "psnr_db", "noise_loss"
MACS, PARAMETERS, LATENT_BYTES = "macs", "parameters", "latent_bytes"
TIME = "time_batch_"
TO_UNPRUNED = "-to-unpruned"
"""Ends the name of the distance from samples to the unpruned model's reconstructions."""
COSTS = {MACS: "MACs of a step", PARAMETERS: "parameters", LATENT_BYTES: "bytes of a latent"}
METRICS = {PSNR: "PSNR in dB", NOISE_LOSS: "noise loss"}
"""What they are called; other costs are times, and other metrics have names that can be read."""
FRECHET = ("FD-", "rFD-")
FEWEST = 1000
"""Pictures, on either side, from which on Fréchet distances can be compared."""
NOT_COMPARABLE = "not comparable"
MARK = "†"
"""Behind a figure that is not comparable."""
NOT_MEASURED = "samples not measured"
HIGHER_IS_BETTER = (PSNR, "ssim", "precision", "recall")


@dataclass(frozen=True)
class Value:
    """A figure, and the ends of its interval where it has one."""

    mean: float
    low: float | None = None
    high: float | None = None
    is_comparable: bool = True
    """False for a Fréchet distance of fewer than FEWEST pictures: shown, never ranked by."""

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval; the figure itself where there is none."""
        low = self.mean if self.low is None else self.low
        return low, self.mean if self.high is None else self.high


@dataclass(frozen=True)
class TradeoffPoint:
    """One model of a trade-off."""

    label: str
    role: Role
    quality: dict[str, Value]
    """By metric as `pelap evaluate` names it, e.g. psnr_db or FD-ResNet20."""
    cost: dict[str, Value]
    """MACS, PARAMETERS, LATENT_BYTES, and TIME + batch size relative to the unpruned model."""
    description: str = ""
    training_steps: int = 0
    """Of all recoveries."""
    denoiser_changed: bool = False
    """Whether its denoiser is another than the reference's."""

    @property
    def denoiser_measured(self) -> bool:
        """Whether any metric is of what the denoiser does."""
        return any(name == NOISE_LOSS or judges_denoiser(name) for name in self.quality)

    @property
    def is_unknown(self) -> bool:
        """Whether its denoiser changed and nothing of it was measured."""
        return self.denoiser_changed and not self.denoiser_measured

    def is_ranked(self, metric: str) -> bool:
        """Whether the metric says enough of it to rank it: a changed denoiser is seen by it."""
        value = self.quality.get(metric)
        seen = judges_denoiser(metric) or not self.denoiser_changed
        return value is not None and value.is_comparable and seen

    @property
    def figures(self) -> dict[str, Value]:
        """Metrics, then costs."""
        return self.quality | self.cost


def higher_is_better(metric: str) -> bool:
    """Whether more of it is better; Fréchet distances and losses are better when small."""
    return metric.startswith(HIGHER_IS_BETTER)


def judges_denoiser(metric: str) -> bool:
    """Whether it is of pictures that the denoiser drew."""
    return metric.startswith("FD-")


def is_time(name: str) -> bool:
    """Whether a cost is a time relative to the unpruned model."""
    return name.startswith(TIME)


def cost_title(cost: str) -> str:
    """For a panel or a column: `time, 16 at a time`."""
    if is_time(cost):
        return f"time, {cost.removeprefix(TIME)} at a time (reference: 1)"
    return COSTS.get(cost, cost)


def metric_name(metric: str) -> str:
    """As it stands in a sentence."""
    return METRICS.get(metric, metric.replace(TO_UNPRUNED, " to unpruned"))


def metric_title(metric: str) -> str:
    """For an axis, with an arrow towards the better."""
    return f"{metric_name(metric)} {'↑' if higher_is_better(metric) else '↓'}"


def write_figure(name: str, value: float) -> str:
    """A figure of a metric or a cost as text."""
    if name in COSTS:
        return quantity(value)
    return loss(value) if name == NOISE_LOSS else significant(value, 4 if name == PSNR else 3)


def write_value(name: str, value: Value) -> str:
    """The same, marked where it is not comparable."""
    return write_figure(name, value.mean) + ("" if value.is_comparable else f" {MARK}")


def to_point(measured: JsonObject, label: str, history: Sequence[JsonObject]) -> TradeoffPoint:
    """A point from the quality and the cost that were measured of a model, and its record."""
    quality = {
        name: Value(figure["value"], figure["low"], figure["high"], _is_comparable(name, figure))
        for name, figure in measured["quality"].items()
    }
    counted, cost = measured["cost"], {}
    for timed in counted["times_as_fast"]:
        ends = 1 / timed["ratio_max"], 1 / timed["ratio_min"]
        cost[f"{TIME}{timed['batch_size']}"] = Value(1 / timed["ratio"], *ends)
    cost[MACS] = Value(counted["macs"]["denoiser_step"])
    cost[PARAMETERS] = Value(counted["parameters"]["total"])
    cost[LATENT_BYTES] = Value(counted["latent_bytes"])
    steps = sum(record["steps"] for record in history if "recovered" in record)
    words = describe_history(history)
    return TradeoffPoint(label, role_of(history), quality, cost, words, steps)


def _is_comparable(name: str, figure: JsonObject) -> bool:
    counts = (figure.get("num_pictures"), figure.get("num_references"))
    return not name.startswith(FRECHET) or all(n is None or n >= FEWEST for n in counts)


def role_of(history: Sequence[JsonObject]) -> Role:
    """From a model's record: unpruned without a pruning, random if chance chose in every one."""
    prunings = [record for record in history if "pruned" in record]
    chosen_by = {record.get("criterion") for record in prunings}
    chosen_by |= {record.get("width", {}).get("criterion") for record in prunings}
    if not prunings:
        return "unpruned"
    return "random" if chosen_by - {None} == {"random"} else "pruned"


def describe_history(history: Sequence[JsonObject]) -> str:
    """A model's record in a few words: `8 of 16 latents, elimination; recovered 2,000 steps`."""
    parts = []
    for record in history:
        if "recovered" in record:
            parts.append(f"recovered {record['steps']:,} steps")
            continue
        if record.get("criterion") is not None:
            turned = record.get("rotation", "none")
            chosen = record["criterion"] if turned == "none" else f"{turned} rotation"
            channels = f"{record['channels_after']} of {record['channels_before']}"
            parts.append(f"{channels} latents, {chosen}")
        if "tokens" in record:
            parts.append("larger patches")
        if (width := record.get("width")) is not None:
            share = width["macs"] / width["macs_before"]
            parts.append(f"width {width['criterion']} {100 * share:.0f} % MACs")
    return "; ".join(parts) or "as trained"
