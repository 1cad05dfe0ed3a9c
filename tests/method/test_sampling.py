"""Samplers: seeded, of the right shape, and right where the answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image

from pelap.cli import main
from pelap.config.presets import paper, tiny
from pelap.config.run_folder import RunFolder
from pelap.method.forward_process import build_scheduler
from pelap.method.pipeline import load_pipeline
from pelap.method.sampling import SAMPLERS, build_sampler, denoise, sample, to_uint8
from pelap.method.system import build_system


class GaussianDenoiser(torch.nn.Module):
    """The perfect noise prediction for latents that are N(0, std²)."""

    def __init__(self, std: float, alphas_cumprod: torch.Tensor):
        super().__init__()
        self.std, self.alphas = std, alphas_cumprod

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> UNet2DOutput:
        alpha = self.alphas[timestep.long()]
        variance = alpha * self.std**2 + 1 - alpha
        return UNet2DOutput(sample=(1 - alpha).sqrt() / variance * sample)


@pytest.mark.parametrize(("name", "steps"), [("ddpm", 200), ("ddim", 100), ("dpm-solver++", 25)])
def test_samples_have_the_spread_of_the_data(name: str, steps: int):
    forward_process = build_scheduler(paper().noise)
    noise = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    denoiser: Any = GaussianDenoiser(0.5, forward_process.alphas_cumprod)
    latents = denoise(denoiser, build_sampler(name, forward_process), noise, steps)
    assert latents.std().item() == pytest.approx(0.5, rel=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_seed_same_pictures(name: str):
    config = tiny()
    system = build_system(config)

    def draw(seed: int) -> torch.Tensor:
        return sample(system, config, num_samples=3, sampler=name, num_steps=4, seed=seed)

    first = draw(1)
    assert first.shape == (3, 3, 16, 16)
    assert first.dtype == torch.uint8
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))


def test_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="known are ddpm"):
        build_sampler("euler", build_scheduler(tiny().noise))


def test_pipeline_gives_the_same_pictures_after_saving(tiny_run: RunFolder):
    pipeline: Any = load_pipeline(tiny_run.model)
    reloaded: Any = load_pipeline(tiny_run.model)
    noise = torch.randn(2, 4, 4, 4)
    pictures = pipeline(noise, num_inference_steps=3).images
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    tensors = pipeline(noise, num_inference_steps=3, output_type="pt").images
    again = reloaded(noise, num_inference_steps=3, output_type="pt").images
    assert torch.equal(tensors, again)


def test_bytes_round_to_the_nearest():
    values = torch.tensor([-1.0, 0.0, 1.0, 3.0, -3.0])
    assert to_uint8(values).tolist() == [0, 128, 255, 255, 0]


def test_batches_do_not_change_deterministic_samples():
    config = tiny()
    system = build_system(config)
    options = {"num_samples": 5, "sampler": "ddim", "num_steps": 3, "seed": 0}
    whole = sample(system, config, **options)
    parts = sample(system, config, batch_size=2, **options)
    assert (whole.int() - parts.int()).abs().max() <= 1


def test_batches_of_an_ancestral_sampler_are_not_alike():
    """Its noise decides the picture: batches and seeds that shared it would be copies."""
    forward_process = build_scheduler(paper().noise)
    config = tiny()
    system: Any = build_system(config)
    system.denoiser = GaussianDenoiser(0.5, forward_process.alphas_cumprod)
    system.decode = lambda latents: latents[:, :3]  # what is drawn, without a decoder
    options = {"num_samples": 64, "sampler": "ddpm", "num_steps": 200}
    values = sample(system, config, seed=0, batch_size=32, **options).float()
    other = sample(system, config, seed=1, batch_size=32, **options).float()
    first, second = values.split(32)
    for left, right in ((first, second), (first, other[:32])):
        together = torch.stack([left.flatten(), right.flatten()])
        assert torch.corrcoef(together)[0, 1].abs() < 0.1


def drawn(folder: Path) -> torch.Tensor:
    """Pictures of a folder, (N, H, W, 3), as numbers up to 255."""
    files = sorted(folder.iterdir())
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).float() for file in files])


def draw(run: RunFolder, output: Path, *options: str) -> torch.Tensor:
    command = ["sample", str(run.path), "--output", str(output), "--num", "4", "--steps", "5"]
    assert main([*command, *options]) == 0
    return drawn(output)


def test_bf16_samples_differ_little(tiny_run: RunFolder, tmp_path: Path):
    exact = draw(tiny_run, tmp_path / "fp32")
    rounded = draw(tiny_run, tmp_path / "bf16", "--precision", "bf16")
    assert 0 < (rounded - exact).abs().mean() < 2
    assert torch.equal(rounded, draw(tiny_run, tmp_path / "again", "--precision", "bf16"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # inductor's
def test_compiled_samples_differ_little(tiny_run: RunFolder, tmp_path: Path):
    exact = draw(tiny_run, tmp_path / "eager")
    assert (draw(tiny_run, tmp_path / "compiled", "--compile") - exact).abs().max() <= 2


def test_an_unknown_precision_is_one_line(
    tiny_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = str(tmp_path / "none")
    assert main(["sample", str(tiny_run.path), "--output", output, "--precision", "fp16"]) == 2
    assert "known are fp32, bf16" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
