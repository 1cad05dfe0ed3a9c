"""Models as ONNX files that need no torch, each checked against torch, and a runner for them."""
