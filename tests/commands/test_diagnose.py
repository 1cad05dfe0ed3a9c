"""Diagnoses of planted models, of a real run, and of diffusers' own pipelines."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image
from torch import Tensor, nn

from pelap.cli import main
from pelap.commands.diagnose_model import diagnose_model, load_diagnosable
from pelap.config.presets import paper, tiny
from pelap.config.run_config import ObjectiveConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError
from pelap.data.load import load_pictures
from pelap.data.pictures import to_batch
from pelap.measure.collapse import MAX_RELATIVE_ERROR, MIN_LATENT_STD, OPEN_MASK
from pelap.measure.diagnosis_record import Diagnosis
from pelap.measure.noise_levels import SNR_LEVELS_DB, SNR_TOLERANCE_DB, diagnose
from pelap.measure.run_evaluation import evaluate_run
from pelap.measure.spread import MIN_VARIANCE_SHARE
from pelap.method.forward_process import build_scheduler
from pelap.method.gates import SigmoidGate, TopKGate
from pelap.method.importance import ImportancePredictor
from pelap.method.losses import gaussian_diffusion_loss
from pelap.method.normalizer import LatentNormalizer
from pelap.method.system import LatentDiffusion, build_system
from pelap.pages.diagnosis_figures import plot_denoisers
from pelap.pages.run_page import write_report

CHANNELS = 4


class ScalingAutoencoder(nn.Module):
    """Latents that are the images times a factor; the decoder divides by it."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def encode(self, images: Tensor) -> AutoencoderKLOutput:
        moments = torch.cat([self.factor * images, torch.full_like(images, -30.0)], dim=1)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, latents: Tensor) -> DecoderOutput:
        return DecoderOutput(sample=latents / self.factor)


class LinearDenoiser(nn.Module):
    """The best prediction for independent Gaussian latents of mean 0 and known spread."""

    def __init__(self, std: list[float], scheduler: DDPMScheduler):
        super().__init__()
        self.std = torch.tensor(std)[:, None, None]
        self.scheduler = scheduler

    def forward(self, sample: Tensor, timestep: Tensor) -> UNet2DOutput:
        alpha = self.scheduler.alphas_cumprod[timestep][:, None, None, None]
        whitened = sample / (alpha * self.std**2 + 1 - alpha)
        noise, clean = (1 - alpha).sqrt() * whitened, alpha.sqrt() * self.std**2 * whitened
        if self.scheduler.config["prediction_type"] == "epsilon":
            return UNet2DOutput(sample=noise)
        return UNet2DOutput(sample=alpha.sqrt() * noise - (1 - alpha).sqrt() * clean)


def linear_system(
    std: list[float],
    factor: float = 1.0,
    prediction: Any = "epsilon",
    scores: list[float] | None = None,
) -> LatentDiffusion:
    """The best denoiser for latents of that spread; with scores, a sigmoid gate before it."""
    scheduler = build_scheduler(replace(paper().noise, prediction=prediction))
    autoencoder: Any = ScalingAutoencoder(factor)
    denoiser: Any = LinearDenoiser(std, scheduler)
    importance = gate = None
    if scores is not None:
        importance, gate = ImportancePredictor(len(scores)), SigmoidGate(len(scores))
        importance.out.bias.data = torch.tensor(scores)
    return LatentDiffusion(autoencoder, denoiser, importance, gate, scheduler)


def gaussian_images(std: list[float], num: int = 300) -> Tensor:
    noise = torch.randn(num, len(std), 8, 8, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor(std)[:, None, None]


def reasons(diagnosis: Diagnosis) -> str:
    return "\n".join(diagnosis.collapse.reasons)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_best_linear_denoiser_reaches_the_closed_forms(prediction: str):
    std = [0.8] * CHANNELS
    system = linear_system(std, prediction=prediction)
    diagnosis = diagnose(system, gaussian_images(std))
    alphas = system.scheduler.alphas_cumprod

    assert [level.timestep for level in diagnosis.levels][::19] == [0, 999]
    for level in diagnosis.levels:
        alpha = alphas[level.timestep : level.timestep + 1]
        expected = float(gaussian_diffusion_loss(torch.tensor(std), alpha))
        assert level.gaussian_diffusion_loss == pytest.approx(expected, rel=0.02)
        assert level.diffusion_loss == pytest.approx(expected, rel=0.02)
    for point, ratio in zip(diagnosis.recovery, SNR_LEVELS_DB, strict=True):
        assert point.snr_db == ratio
        assert point.timestep is not None
        snr = float(alphas[point.timestep] * 0.64 / (1 - alphas[point.timestep]))
        assert 10 ** ((ratio - 1.1) / 10) < snr < 10 ** ((ratio + 1.1) / 10)
        assert point.relative_error == pytest.approx(1 / (1 + snr), rel=0.03)
        assert point.linear_relative_error == pytest.approx(1 / (1 + 10 ** (ratio / 10)))
    assert diagnosis.collapse.verdict == "healthy"
    assert diagnosis.notes == []


def test_small_latents_with_a_decoder_that_compensates_are_shrunken():
    std = [1.0] * CHANNELS
    system = linear_system([0.01] * CHANNELS, factor=0.01)
    diagnosis = diagnose(system, gaussian_images(std))

    assert diagnosis.collapse.verdict == "shrunken"
    assert diagnosis.diffusion_loss < 0.05
    assert diagnosis.reconstruction_psnr_db > 60
    reached = [point.snr_db for point in diagnosis.recovery if point.relative_error is not None]
    assert reached == [0.0]
    assert "3, 6, 10, 15, 20 dB" in diagnosis.notes[0]


def test_a_denoiser_that_never_sees_noise_drown_the_latents_is_not_healthy():
    system = linear_system([300.0] * CHANNELS)
    diagnosis = diagnose(system, gaussian_images([300.0] * CHANNELS))
    assert diagnosis.collapse.verdict == "undertrained"
    assert diagnosis.least_snr_db is not None
    assert diagnosis.least_snr_db > 0
    assert "never drowns" in reasons(diagnosis)


def test_a_broken_decoder_or_encoder_is_refused():
    for factor in (math.nan, math.inf):
        with pytest.raises(RunError, match="broken"):
            diagnose(linear_system([1.0] * CHANNELS, factor), gaussian_images([1.0] * CHANNELS))


def test_one_closed_channel_of_four_is_healthy_and_named():
    std = [1.0] * CHANNELS
    system = linear_system([1.0, 1.0, 0.0, 1.0], scores=[9.0, 9.0, -9.0, 9.0])
    diagnosis = diagnose(system, gaussian_images(std))

    assert diagnosis.collapse.verdict == "healthy"
    assert "channel 2 is closed" in reasons(diagnosis)
    assert diagnosis.mask_mean[2] < 0.001 < 0.99 < diagnosis.mask_mean[0]
    assert diagnosis.latent_std[2] == pytest.approx(1.0, rel=0.02)
    assert diagnosis.masked_latent_std[2] < 0.001
    assert diagnosis.masked_reconstruction_psnr_db < 20 < diagnosis.reconstruction_psnr_db
    # The closed channel has no variance that could be recovered, and is left out.
    assert diagnosis.recovery[0].relative_error == pytest.approx(0.5, abs=0.03)


def test_closed_masks_are_collapsed_however_well_the_denoiser_does():
    system = linear_system([0.0] * CHANNELS, scores=[-9.0] * CHANNELS)
    diagnosis = diagnose(system, gaussian_images([1.0] * CHANNELS))

    assert diagnosis.collapse.verdict == "collapsed"
    assert diagnosis.diffusion_loss < 0.001
    assert all(point.relative_error is None for point in diagnosis.recovery)
    assert "0, 3, 6, 10, 15, 20 dB" in diagnosis.notes[0]


def test_open_channels_alone_count_where_the_objective_says_so():
    system = linear_system([1.0] * CHANNELS)
    system.importance, system.gate = ImportancePredictor(CHANNELS), TopKGate(CHANNELS, False)
    system.gate.mean_scores.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    system.gate.harden(2)
    system.options = ObjectiveConfig(open_channels_only=True)
    diagnosis = diagnose(system, gaussian_images([1.0] * CHANNELS))

    assert diagnosis.masked_latent_std[2:] == [0.0, 0.0]
    for level in diagnosis.levels:
        assert level.diffusion_loss == pytest.approx(level.gaussian_diffusion_loss, rel=0.03)
    assert diagnosis.recovery[0].relative_error == pytest.approx(0.5, abs=0.03)


@pytest.fixture(scope="module")
def normalized() -> tuple[LatentDiffusion, Tensor]:
    """A frozen autoencoder with the statistics of its latents and an untrained denoiser."""
    config = tiny()
    config = replace(config, network=replace(config.network, normalize_latents=True))
    system = build_system(config)
    pictures = load_pictures(config.data, 0).test
    images = to_batch(pictures.fetch(torch.arange(len(pictures))), "cpu")
    assert isinstance(system.normalizer, LatentNormalizer)
    with torch.no_grad():
        distribution = system.autoencoder.encode(images).latent_dist
        system.normalizer.update(distribution.sample(torch.Generator().manual_seed(0)))
    return system, images


def test_scaled_latents_with_a_denoiser_that_knows_their_size_are_healthy(
    normalized: tuple[LatentDiffusion, Tensor],
):
    system, images = normalized
    denoiser: Any = LinearDenoiser([1.0] * CHANNELS, system.scheduler)
    sound = LatentDiffusion(
        system.autoencoder, denoiser, None, None, system.scheduler, system.normalizer
    )
    diagnosis = diagnose(sound, images)

    assert diagnosis.collapse.verdict == "healthy"
    assert diagnosis.latent_std == pytest.approx([1.0] * CHANNELS, rel=0.1)


def test_a_random_denoiser_is_undertrained(normalized: tuple[LatentDiffusion, Tensor]):
    diagnosis = diagnose(*normalized)

    assert diagnosis.collapse.verdict == "undertrained"
    assert (diagnosis.recovery[0].relative_error or 0) > 1


def test_batches_are_gone_through_twice():
    system, images = linear_system([1.0] * CHANNELS), gaussian_images([1.0] * CHANNELS, 6)
    assert diagnose(system, list(images.split(6))) == diagnose(system, images)
    with pytest.raises(ValueError, match="twice"):
        diagnose(system, iter(images.split(2)))
    with pytest.raises(ValueError, match="no images"):
        diagnose(system, [])


def test_run_on_the_command_line(
    capsys: pytest.CaptureFixture[str], tiny_run: RunFolder, tmp_path: Path
):
    assert main(["diagnose", str(tiny_run.path), "--num-pictures", "40", "--json"]) == 0
    first = capsys.readouterr().out
    assert json.loads(first) == json.loads(tiny_run.diagnosis_path.read_text())
    assert json.loads(first)["num_pictures"] == 40
    for name in ("denoiser_by_timestep", "recovered_latent", "latent_channels"):
        with Image.open(tiny_run.figures / f"{name}.png") as image:
            assert image.size[0] > 600
    command = ["diagnose", str(tiny_run.path), "--num-pictures", "40", "--output"]
    assert main([*command, str(tmp_path / "again"), "--json"]) == 0
    assert capsys.readouterr().out == first
    assert main([*command, str(tmp_path / "other")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("verdict")
    assert "1 / (1 + SNR)" in shown


def test_model_folder_of_a_run_gives_the_runs_numbers(
    capsys: pytest.CaptureFixture[str], tiny_run: RunFolder
):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    by_model = diagnose_model(load_diagnosable(tiny_run.model), num_pictures=20)
    assert before == {path: path.stat().st_mtime_ns for path in tiny_run.path.rglob("*")}
    by_run = diagnose_model(load_diagnosable(tiny_run.path), num_pictures=20)
    assert {**by_model, "model": by_run["model"]} == by_run


def test_model_with_a_gate_needs_the_runs_config(tiny_run: RunFolder, tmp_path: Path):
    shutil.copytree(tiny_run.model, tmp_path / "model")
    with pytest.raises(RunError, match="has a gate"):
        load_diagnosable(tmp_path / "model")


def test_figure_of_several_models():
    found = diagnose(linear_system([1.0] * CHANNELS), gaussian_images([1.0] * CHANNELS, 8))
    both, one = (plot_denoisers(dict.fromkeys(names, found)) for names in ("ab", "a"))
    assert both.get_figwidth() == one.get_figwidth()
    assert both.get_figheight() > 1.4 * one.get_figheight()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["{tmp}/nowhere"], "No model at"),
        (["{run}", "--num-pictures", "0"], "--num-pictures is 0"),
        (["{run}", "--data.source", "folder", "--data.path", "{tmp}/none"], "none"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str],
    tiny_run: RunFolder,
    tmp_path: Path,
    arguments: list[str],
    match: str,
):
    filled = [argument.format(tmp=tmp_path, run=tiny_run.path) for argument in arguments]
    assert main(["diagnose", *filled]) == 2
    assert match in capsys.readouterr().err


def test_page_shows_the_diagnosis(tiny_run: RunFolder, tmp_path: Path):
    evaluate_run(tiny_run)
    diagnose_model(load_diagnosable(tiny_run.path), num_pictures=20)
    page = write_report([tiny_run], tmp_path).read_text()
    assert "At which noise levels does the denoiser work?" in page
    assert "Verdicts of pelap diagnose, tiny: " in page
    assert (tmp_path / "figures" / "recovered_latent.png").exists()


def test_documentation_states_the_thresholds():
    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()
    for threshold in (OPEN_MASK, MIN_LATENT_STD, MAX_RELATIVE_ERROR, MIN_VARIANCE_SHARE):
        assert f"{threshold:g}" in page
    assert f"within {SNR_TOLERANCE_DB:g} dB" in page
