"""Is the model healthy?"""

from pelap.diagnostics.collapse import CollapseEvidence, CollapseVerdict, judge

__all__ = ["CollapseEvidence", "CollapseVerdict", "judge"]
