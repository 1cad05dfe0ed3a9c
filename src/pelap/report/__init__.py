"""From evaluated runs to figures and one self-contained page."""

from pelap.report.page import write_report

__all__ = ["write_report"]
