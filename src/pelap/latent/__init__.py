"""What stands between encoder and denoiser: statistics, scores and the gates that mask."""

from pelap.latent.gates import (
    GATES,
    Gate,
    GateOutput,
    HardConcreteGate,
    NestedGate,
    SigmoidGate,
    TopKGate,
    build_gate,
    follow_budget,
)
from pelap.latent.importance import ImportancePredictor
from pelap.latent.normalizer import (
    LatentNormalizer,
    fold_normalizer,
    read_statistics,
    write_statistics,
)

__all__ = [
    "GATES",
    "Gate",
    "GateOutput",
    "HardConcreteGate",
    "ImportancePredictor",
    "LatentNormalizer",
    "NestedGate",
    "SigmoidGate",
    "TopKGate",
    "build_gate",
    "fold_normalizer",
    "follow_budget",
    "read_statistics",
    "write_statistics",
]
