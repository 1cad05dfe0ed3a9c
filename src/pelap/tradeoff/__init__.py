"""Quality against cost of several models: measured, and written as one page."""

from pelap.tradeoff.measure import TradeoffSettings, measure_model
from pelap.tradeoff.run import describe_tradeoff, tradeoff

__all__ = ["TradeoffSettings", "describe_tradeoff", "measure_model", "tradeoff"]
