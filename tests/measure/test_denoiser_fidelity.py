"""What pruning changes in a denoiser, measured on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pelap.config.run_config import DataConfig
from pelap.data.load import load_pictures
from pelap.measure.denoiser_fidelity import compare_denoisers
from pelap.measure.encoded_batches import Batches
from pelap.models.conditions import Conditions
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from pelap.models.told_rows import RowsInMemory
from pelap.models.unconditional import without_condition
from tiny_pipelines import PIPELINES

NUM = 6


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path)
    return without_condition(open_model(tmp_path), 16)


@pytest.fixture
def batches(model: LoadedModel) -> Batches:
    """Photographs, each told a random text."""
    assert model.condition is not None
    empty = model.condition.arguments["encoder_hidden_states"]
    texts = {"encoder_hidden_states": torch.randn(NUM, *empty.shape[1:])}
    told = Conditions(RowsInMemory(texts), torch.arange(NUM))
    pictures = load_pictures(DataConfig(size=16, num_train=NUM, num_test=2), 0).train
    return Batches(pictures, torch.arange(NUM), 4, 0, told)


def compare(model: LoadedModel, other: LoadedModel, batches: Batches) -> Any:
    return compare_denoisers(model, other, torch.eye(model.num_channels), batches)


def changed(model: LoadedModel, part: str, factor: float) -> LoadedModel:
    """The model with some of its denoiser's weights scaled."""
    other = replace(model, denoiser=open_model(model.folder or "").denoiser)
    assert other.denoiser is not None
    with torch.no_grad():
        for name, weight in other.denoiser.named_parameters():
            if part in name:
                weight.mul_(factor)
    return other


def test_a_model_beside_itself(model: LoadedModel, batches: Batches):
    found = compare(model, model, batches)
    assert found.relative_error < 1e-5
    assert found.followed == pytest.approx(1, abs=1e-4)
    assert len(found.timesteps) == len(found.relative_errors) == 10
    assert not found.needs_recovery


def test_a_prediction_that_is_half_as_large(model: LoadedModel, batches: Batches):
    found = compare(model, changed(model, "conv_out", 0.5), batches)
    assert found.relative_error == pytest.approx(0.5, abs=1e-4)
    assert found.followed == pytest.approx(0.5, abs=1e-4)
    assert found.needs_recovery


def test_a_denoiser_that_no_longer_listens(model: LoadedModel, batches: Batches):
    found = compare(model, changed(model, "attn2.to_out", 0.0), batches)
    assert found.followed == pytest.approx(0, abs=1e-4)
    assert found.relative_error < 0.5  # most of the prediction is not about the text
    assert found.needs_recovery
    untold = compare(model, model, replace(batches, conditions=None))
    assert untold.followed is None
