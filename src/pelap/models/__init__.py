"""Models of any origin: opened from folders, runs, the hub or a factory; saved for diffusers."""

from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_factory, open_model
from pelap.models.saving import ChangedModel, save_model
from pelap.models.unconditional import without_condition

__all__ = [
    "ChangedModel",
    "LoadedModel",
    "open_factory",
    "open_model",
    "save_model",
    "without_condition",
]
