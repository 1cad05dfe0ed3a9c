"""What stands between encoder and denoiser: scores and the gates that turn them into masks."""

from pelap.latent.gates import Gate, GateOutput, SigmoidGate, build_gate
from pelap.latent.importance import ImportancePredictor

__all__ = ["Gate", "GateOutput", "ImportancePredictor", "SigmoidGate", "build_gate"]
