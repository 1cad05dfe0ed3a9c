"""Which latent channels are used? The measuring itself is in analyze.py: this imports no torch."""

from pelap.analysis.recommend import Recommendation, recommend
from pelap.analysis.results import (
    Agreement,
    Analysis,
    AnalysisSettings,
    ChannelAnalysis,
    CriterionResult,
    CurvePoint,
    MomentsResult,
    RandomCurve,
    RotationCurve,
)

__all__ = [
    "Agreement",
    "Analysis",
    "AnalysisSettings",
    "ChannelAnalysis",
    "CriterionResult",
    "CurvePoint",
    "MomentsResult",
    "RandomCurve",
    "Recommendation",
    "RotationCurve",
    "recommend",
]
