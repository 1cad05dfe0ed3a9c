"""Batches that are too large for a GPU are halved until they fit, with the same result."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from pelap.config.presets import tiny
from pelap.core.notes import note_once
from pelap.method.halving import Halving
from pelap.method.sampling import sample
from pelap.method.system import LatentDiffusion, build_system


@dataclass
class Small:
    """A device on which so many pictures fit."""

    most: int
    sizes: list[int]

    def double(self, batch: Tensor, *more: object) -> Tensor:
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 2 * batch


@torch.no_grad()
def test_halves_until_it_fits_and_remembers(capsys: pytest.CaptureFixture[str]):
    note_once.cache_clear()
    small, halving, batch = Small(3, []), Halving("decoded"), torch.arange(11.0)
    assert torch.equal(halving(small.double, batch), 2 * batch)
    assert small.sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    small.sizes.clear()
    assert torch.equal(halving(small.double, batch[:4]), 2 * batch[:4])
    assert small.sizes == [2, 2]
    assert "2 pictures at a time are decoded" in capsys.readouterr().err


@torch.no_grad()
def test_one_that_is_too_many_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        Halving("decoded")(Small(0, []).double, torch.ones(4))


def test_with_gradients_nothing_is_halved():
    small = Small(3, [])
    with pytest.raises(torch.OutOfMemoryError):
        Halving("decoded")(small.double, torch.ones(4, requires_grad=True))
    assert small.sizes == [4]


@torch.no_grad()
def test_other_errors_pass():
    def fail(batch: Tensor) -> Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Halving("decoded")(fail, torch.ones(4))


@torch.no_grad()
def test_all_that_has_rows_is_halved_and_nothing_else():
    seen = []

    def look(batch: Tensor, timestep: Tensor, told: dict) -> tuple[Tensor, Tensor]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.append((timestep.tolist(), told["labels"].tolist(), told["deep"]["scale"]))
        return batch, told["labels"]

    told = {"labels": torch.arange(4), "deep": {"scale": 0.5}}
    batch, labels = Halving("denoised")(look, torch.ones(4, 2), torch.tensor(7), told)
    assert seen == [(7, [0, 1], 0.5), (7, [2, 3], 0.5)]
    assert batch.shape == (4, 2)
    assert labels.tolist() == [0, 1, 2, 3]


class Limited(nn.Module):
    """A network on a device with little memory."""

    def __init__(self, network: nn.Module, most: int):
        super().__init__()
        self.network, self.most = network, most

    def forward(self, batch: Tensor, *more: object) -> object:
        self._fit(batch)
        return self.network(batch, *more)

    def encode(self, images: Tensor) -> object:
        self._fit(images)
        return self.network.encode(images)  # type: ignore[operator]

    def decode(self, latents: Tensor) -> object:
        self._fit(latents)
        return self.network.decode(latents)  # type: ignore[operator]

    def _fit(self, batch: Tensor) -> None:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")


def limited(system: LatentDiffusion, most: int) -> LatentDiffusion:
    system.autoencoder = Limited(system.autoencoder, most)
    system.denoiser = Limited(system.denoiser, most)
    return system


@torch.no_grad()
def test_a_system_gives_what_it_gave_whole():
    config = replace(tiny(), network=replace(tiny().network, normalize_latents=True))
    whole, small = build_system(config).eval(), limited(build_system(config).eval(), 3)
    images, noise = torch.rand(8, 3, 16, 16), torch.randn(8, 4, 4, 4)
    steps = torch.arange(8)
    moments = whole.encode_moments(images)
    torch.testing.assert_close(small.encode_moments(images), moments)
    torch.testing.assert_close(small.decode(noise), whole.decode(noise))
    torch.testing.assert_close(small.predict(noise, steps), whole.predict(noise, steps))
    assert isinstance(small.encode(images, noise).latents, Tensor)
    assert small._decoding.most == 2


@pytest.mark.parametrize("sampler", ["ddpm", "dpm-solver++"])
def test_samples_are_those_of_whole_batches(sampler: str):
    config = tiny()
    whole, small = build_system(config).eval(), limited(build_system(config).eval(), 3)
    one, other = (
        sample(system, config, num_samples=8, sampler=sampler, num_steps=3, seed=0)
        for system in (whole, small)
    )
    assert (one.int() - other.int()).abs().max() <= 1  # rounded to bytes
