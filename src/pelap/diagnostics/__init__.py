"""Is the model healthy? The measuring itself is in curves.py, so that this imports no torch."""

from pelap.diagnostics.collapse import CollapseEvidence, CollapseVerdict, judge
from pelap.diagnostics.diagnosis import Diagnosis, LevelLosses, SnrError

__all__ = [
    "CollapseEvidence",
    "CollapseVerdict",
    "Diagnosis",
    "LevelLosses",
    "SnrError",
    "judge",
]
