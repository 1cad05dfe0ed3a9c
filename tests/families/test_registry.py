"""One file a family: every class is found by its name, and named nowhere else."""

from pathlib import Path

import diffusers
import pytest
from torch import nn

import pelap
from pelap.core.errors import ModelError
from pelap.families.registry import (
    autoencoder_families,
    autoencoder_ports,
    denoiser_families,
    denoiser_family,
)

SOURCE = Path(pelap.__file__).parent
NAMES = {
    name for name in dir(diffusers) if ("Transformer" in name or "UNet" in name) and "Model" in name
}


def test_diffusers_has_the_classes_that_are_looked_for() -> None:
    assert {"UNet2DModel", "UNet2DConditionModel", "FluxTransformer2DModel"} <= NAMES
    assert set(denoiser_families()) <= NAMES | {"PaperUNet"}
    assert all(hasattr(diffusers, name) for name in autoencoder_families() if name[0] != "P")


@pytest.mark.parametrize("room", sorted(p.name for p in SOURCE.iterdir() if p.name != "families"))
def test_no_other_room_names_a_denoiser_of_diffusers(room: str) -> None:
    paths = SOURCE.joinpath(room).rglob("*.py") if (SOURCE / room).is_dir() else [SOURCE / room]
    for path in paths:
        if path.suffix == ".py" and not path.name.startswith("paper_"):
            text = path.read_text()
            assert not {name for name in NAMES if name in text}, path


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(ModelError, match=r"denoiser Linear is not supported; known are .*UNet2D"):
        denoiser_family(nn.Linear(1, 1))
    with pytest.raises(ModelError, match=r"autoencoder VQModel is not .*docs/families.md shows"):
        autoencoder_ports(type("VQModel", (nn.Module,), {})())


def test_a_family_is_found_by_its_class_name() -> None:
    assert denoiser_family("FluxTransformer2DModel").packing.side == 2
    assert "VQModel" in autoencoder_families()
