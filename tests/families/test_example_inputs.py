"""Every denoiser can be called with what `example_inputs` makes, and its work counted."""

from typing import Any

import pytest
import torch
from torch import nn

from pelap.core.errors import ModelError
from pelap.families.registry import denoiser_family, example_inputs
from pelap.measure.macs import count_denoiser_macs
from tiny_models import DENOISERS, SIDE


@pytest.mark.parametrize("name", DENOISERS)
def test_every_denoiser_takes_its_example_inputs(name: str) -> None:
    denoiser = DENOISERS[name].build(6).eval()
    inputs = example_inputs(denoiser, 2, SIDE)
    latents = next(iter(inputs.values()))
    with torch.no_grad():
        found = denoiser(**inputs).sample
    assert found.shape[0] == len(latents) == 2
    assert found.shape[2:] == latents.shape[2:]
    assert torch.equal(next(iter(example_inputs(denoiser, 2, SIDE).values())), latents)


def test_work_is_counted_for_the_whole_latent() -> None:
    denoiser = DENOISERS["paper"].build(6)
    small, large = (count_denoiser_macs(denoiser, side) for side in (SIDE, 2 * SIDE))
    time = sum(
        w.numel() for name, w in denoiser.named_parameters() if "time" in name and w.dim() == 2
    )
    assert large - time == 4 * (small - time)
    assert next(denoiser.parameters()).device.type == "cpu"


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(ModelError, match="Linear is not supported"):
        example_inputs(nn.Linear(1, 1))


def test_what_is_told_of_a_picture_is_refused() -> None:
    first: Any = DENOISERS["unet_condition"].build(6)
    config = {**first.config, "addition_embed_type": "image"}
    with pytest.raises(ModelError, match="addition_embed_type is image"):
        denoiser_family(first).check(config)
