"""Models that come with pelap's repository."""

from pathlib import Path

from pelap.core.errors import ModelError

CIFAR = "cifar"
"""The name by which verbs find it, where no folder here has that name."""


def cifar() -> Path:
    """The folder of a class-conditional pipeline for CIFAR-10's classes at 32×32, as diffusers
    saves it; results/cifar says what it can do.

        pelap.open_model(pelap.assets.cifar())

    Raises:
        ModelError: If pelap was installed without its repository.
    """
    folder = Path(__file__).resolve().parents[2] / "assets" / CIFAR
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"The model {CIFAR} is in pelap's repository and in no wheel: clone it and "
            "`pip install --editable` it, or give a folder or a hub id."
        )
    return folder
