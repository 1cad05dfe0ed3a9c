"""Training: one step, the loop around it, and state that resumes bit for bit."""

from pelap.training.checkpoint import is_finished
from pelap.training.trainer import resume, train

__all__ = ["is_finished", "resume", "train"]
