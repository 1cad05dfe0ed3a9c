"""What metrics and costs are called on the page, and how their figures are written."""

from pelap.report.numbers import loss, quantity, significant
from pelap.report.tradeoff_points import (
    LATENT_BYTES,
    MACS,
    NOISE_LOSS,
    PARAMETERS,
    PSNR,
    TIME,
    TO_UNPRUNED,
    higher_is_better,
)

COSTS = {MACS: "MACs of a step", PARAMETERS: "parameters", LATENT_BYTES: "bytes of a latent"}
METRICS = {PSNR: "PSNR in dB", NOISE_LOSS: "noise loss"}


def is_time(cost: str) -> bool:
    """Whether a cost is a time relative to the unpruned model."""
    return cost.startswith(TIME)


def cost_title(cost: str) -> str:
    """For a panel or a column: `time, 16 at a time`."""
    if is_time(cost):
        return f"time, {cost.removeprefix(TIME)} at a time (unpruned: 1)"
    return COSTS.get(cost, cost)


def metric_name(metric: str) -> str:
    """As it stands in a sentence."""
    return METRICS.get(metric, metric.replace(TO_UNPRUNED, " to unpruned"))


def metric_title(metric: str) -> str:
    """For an axis, with an arrow towards the better."""
    return f"{metric_name(metric)} {'↑' if higher_is_better(metric) else '↓'}"


def write_metric(metric: str, value: float) -> str:
    """A figure of a metric as text."""
    if metric == PSNR:
        return significant(value, 4)
    return loss(value) if metric == NOISE_LOSS else significant(value)


def write_cost(cost: str, value: float) -> str:
    """A figure of a cost as text."""
    return significant(value) if is_time(cost) else quantity(value)
