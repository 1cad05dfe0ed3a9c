"""Models as ONNX files that need no torch, each checked against torch, and a runner for them."""

from pelap.export.export import export_model
from pelap.export.runtime import OnnxNetworks
from pelap.export.words import describe_export

__all__ = ["OnnxNetworks", "describe_export", "export_model"]
