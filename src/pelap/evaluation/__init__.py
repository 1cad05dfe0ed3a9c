"""What a trained model is worth and what it costs."""

from pelap.evaluation.cost import count_macs, count_parameters, describe
from pelap.evaluation.evaluate import evaluate_run, sample_run

__all__ = ["count_macs", "count_parameters", "describe", "evaluate_run", "sample_run"]
