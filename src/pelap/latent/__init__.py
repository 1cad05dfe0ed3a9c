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
from pelap.latent.latent_map import (
    FILLS,
    ROTATIONS,
    Fill,
    LatentMap,
    LatentMoments,
    Rotation,
    find_rotation,
    keep_channels,
    predict_noisy,
)
from pelap.latent.normalizer import (
    LatentNormalizer,
    fold_normalizer,
    read_statistics,
    write_statistics,
)

__all__ = [
    "FILLS",
    "GATES",
    "ROTATIONS",
    "Fill",
    "Gate",
    "GateOutput",
    "HardConcreteGate",
    "ImportancePredictor",
    "LatentMap",
    "LatentMoments",
    "LatentNormalizer",
    "NestedGate",
    "Rotation",
    "SigmoidGate",
    "TopKGate",
    "build_gate",
    "find_rotation",
    "fold_normalizer",
    "follow_budget",
    "keep_channels",
    "predict_noisy",
    "read_statistics",
    "write_statistics",
]
