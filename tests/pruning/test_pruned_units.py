"""The record of the kept units says what pruning made of each weight."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pelap
from pelap.core.errors import ModelError
from pelap.models.kept_units import KEPT_UNITS, KeptUnits, take_units
from tiny_pipelines import PIPELINES

REFITTED = "time_embedding.linear_1"
"""The one layer whose bias takes part in its fit."""


def check_weights(units: KeptUnits | None, original: Any, small: Any) -> set[str]:
    """Compare all weights that have two axes or more; returns the layers that went."""
    assert units is not None
    old, new = original.state_dict(), small.state_dict()
    named = {layer.name for layer in units.layers.values() if layer.name is not None}
    assert named == {name.removesuffix(".weight") for name in new if name.endswith(".weight")}
    for name, layer in units.layers.items():
        weight = old[f"{name}.weight"]
        assert layer.sizes == tuple(weight.shape[:2])
        if layer.name is None or layer.name == REFITTED:
            continue
        kept = take_units(weight, 0, layer.outputs)
        if weight.dim() > 1:
            kept = take_units(kept, 1, layer.inputs)
        kept = (kept * layer.scale).to(weight)
        torch.testing.assert_close(new[f"{layer.name}.weight"], kept, rtol=1e-6, atol=1e-7)
    return {name for name, layer in units.layers.items() if layer.name is None}


@pytest.mark.parametrize("name", sorted(set(PIPELINES) - {"chroma"}))
def test_weights_are_what_the_units_say(name: str, tmp_path: Path) -> None:
    model = pelap.open_model(PIPELINES[name]())
    options: dict[str, Any] = {"denoiser_macs": 0.7, "denoiser_criterion": "magnitude"}
    pelap.prune(model, keep=[0, 2], fill="zero", **options).save(tmp_path / "small")
    small = pelap.open_model(tmp_path / "small")
    check_weights(small.kept_units, model.denoiser, small.denoiser)


def test_units_of_two_prunings_are_those_of_the_first_original(tmp_path: Path) -> None:
    model = pelap.open_model(PIPELINES["stable_diffusion_3"]())
    once = pelap.prune(model, keep=[1, 2, 5, 7], fill="zero", denoiser_widths=(1, 2),
                       denoiser_criterion="magnitude")  # fmt: skip
    once.save(tmp_path / "once")
    pelap.prune(tmp_path / "once", keep=[0, 3], fill="zero").save(tmp_path / "twice")
    small = pelap.open_model(tmp_path / "twice")
    check_weights(small.kept_units, model.denoiser, small.denoiser)
    assert small.kept_units is not None
    assert small.kept_units.original == model.name


def test_layers_that_went_have_no_name(tmp_path: Path) -> None:
    PIPELINES["pixart_sigma"]().save_pretrained(tmp_path / "model")
    pipeline: Any = PIPELINES["pixart_sigma"]()
    config = dict(pipeline.transformer.config) | {"num_layers": 3}
    pipeline.transformer = type(pipeline.transformer).from_config(config)
    pipeline.register_modules(transformer=pipeline.transformer)
    model = pelap.open_model(pipeline)
    small = pelap.prune(model, denoiser_widths=(2, 2), denoiser_criterion="magnitude").loaded()
    gone = check_weights(small.kept_units, model.denoiser, small.denoiser)
    assert {name.split(".")[1] for name in gone} == {"1"}  # first and last stay


def test_a_rotation_is_a_matrix_and_recovery_carries_it_on(tmp_path: Path) -> None:
    PIPELINES["ldm"]().save_pretrained(tmp_path / "model")
    pictures = pelap.pictures("photos", size=16)
    analysis = pelap.analyze(tmp_path / "model", pictures, num_pictures=16, num_curve=8,
                             num_search=8, learned_steps=0)  # fmt: skip
    small = pelap.prune(tmp_path / "model", keep=2, rotate="pca", analysis=analysis)
    small.save(tmp_path / "small")
    units = pelap.open_model(tmp_path / "small").kept_units
    check_weights(units, pelap.open_model(tmp_path / "model").denoiser, small.loaded().denoiser)
    assert units is not None
    assert not units.layers["conv_in"].selects
    pelap.recover(tmp_path / "small", pictures, steps=1, output=tmp_path / "recovered")
    files = [(tmp_path / name / KEPT_UNITS).read_bytes() for name in ("small", "recovered")]
    assert files[0] == files[1]


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    PIPELINES["ldm"]().save_pretrained(tmp_path / "model")
    pelap.prune(tmp_path / "model", keep=[0], fill="zero").save(tmp_path / "small")
    path = tmp_path / "small" / KEPT_UNITS
    for content in (b"", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="damaged") as caught:
            pelap.open_model(tmp_path / "small")
        assert "\n" not in str(caught.value)
    pelap.prune(tmp_path / "model", keep=[0], fill="zero").save(tmp_path / "small", overwrite=True)
    save_file(load_file(path), path)  # without its metadata
    with pytest.raises(ModelError, match="should hold a JSON object"):
        pelap.open_model(tmp_path / "small")
