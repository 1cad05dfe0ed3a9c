"""Two-stage training: the plan, the cached latents, and a run that is cut and goes on."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pelap.commands.diagnose_model import diagnose_model, load_diagnosable
from pelap.config.run_config import GateConfig, GateKind, NoiseConfig, ObjectiveConfig, RunConfig
from pelap.config.run_folder import RunFolder, open_run
from pelap.core.errors import ConfigError, RunError
from pelap.data.load import load_pictures
from pelap.data.pictures import to_batch
from pelap.measure.run_evaluation import evaluate_run
from pelap.method.gates import HardConcreteGate
from pelap.method.pipeline import load_pipeline, to_system
from pelap.method.sampling import kept_channels
from pelap.method.system import build_system
from pelap.training.checkpoint import is_finished, list_checkpoints
from pelap.training.latent_cache import Encoding, cache_latents
from pelap.training.stages import plan_stages
from pelap.training.trainer import resume, train
from pelap.training.training_batches import encoding_of
from two_processes import run_in_two_processes


@pytest.fixture
def cured(tiny_config: RunConfig) -> RunConfig:
    """Our objective in two stages, on tiny networks."""
    return replace(
        tiny_config,
        network=replace(tiny_config.network, normalize_latents=True),
        gate=GateConfig(kind="top_k", adaptive=False, budget=2, learning_rate_factor=30.0),
        objective=ObjectiveConfig(
            sparsity_weight=0.0,
            decoder_sees_mask=True,
            encoder_diffusion_weight=0.0,
            open_channels_only=True,
        ),
        noise=NoiseConfig(prediction="v_prediction"),
        optimizer=replace(tiny_config.optimizer, schedule="step", ema_decay=0.9),
        run=replace(tiny_config.run, epochs=1, denoiser_epochs=1),
    )


def test_plan_of_one_and_of_two_stages(tiny_config: RunConfig):
    (joint,) = plan_stages(tiny_config, 8)
    assert (joint.stage, joint.first_step, joint.last_step) == ("joint", 0, 8)
    two = replace(tiny_config, run=replace(tiny_config.run, epochs=3, denoiser_epochs=2))
    first, second = plan_stages(two, 8)
    assert (first.stage, first.first_step, first.last_step) == ("autoencoder", 0, 24)
    assert (second.stage, second.first_step, second.last_step) == ("denoiser", 24, 40)
    assert [plan.stage for plan in plan_stages(replace(two, run=replace(two.run, autoencoder="x")), 8)] == ["denoiser"]  # fmt: skip  # noqa: E501
    only_first = replace(two, run=replace(two.run, denoiser_epochs=0))
    assert [plan.stage for plan in plan_stages(only_first, 8)] == ["autoencoder"]


def test_learning_rate_warms_up_and_falls_within_each_stage(tiny_config: RunConfig):
    config = replace(
        tiny_config,
        optimizer=replace(
            tiny_config.optimizer,
            learning_rate=1.0,
            final_learning_rate=0.0,
            schedule="step",
            warmup_steps=4,
        ),
        run=replace(tiny_config.run, epochs=1, denoiser_epochs=1),
    )
    for plan in plan_stages(config, 8):
        rates = [plan.learning_rate(step, config.optimizer, 8) for step in range(plan.first_step, plan.last_step)]  # fmt: skip  # noqa: E501
        assert rates[0] == pytest.approx(0.25)
        assert rates[4] == pytest.approx(0.5)
        assert rates[4:] == sorted(rates[4:], reverse=True)


def test_each_stage_trains_its_own_networks_and_no_latents_are_left(
    cured: RunConfig, tmp_path: Path
):
    folder = train(cured, tmp_path / "run")
    stages = [line["stage"] for line in folder.metrics("validation")]
    assert stages == ["autoencoder", "denoiser"]
    first, second = folder.metrics("validation")
    assert "diffusion_loss" not in first
    assert "reconstruction_loss" not in second
    assert not folder.latents.exists()
    pipeline = load_pipeline(folder.model)
    fresh = build_system(cured)
    for name in ("autoencoder", "denoiser"):
        trained = getattr(pipeline, name).state_dict()
        assert any(
            not torch.equal(value, trained[key])
            for key, value in getattr(fresh, name).state_dict().items()
        )
    assert pipeline.gate is not None
    assert int(pipeline.gate.kept.sum()) == 2
    assert sum(second["mask_mean"]) == 2


def test_two_stages_killed_and_resumed_are_the_same_bit_for_bit(cured: RunConfig, tmp_path: Path):
    config = replace(cured, run=replace(cured.run, checkpoint_every=3, keep_checkpoints=99))
    whole = train(config, tmp_path / "whole")
    for kept in (3, 8, 12):  # inside the first stage, between both, inside the second
        cut = RunFolder(tmp_path / f"cut_{kept}")
        shutil.copytree(whole.path, cut.path)
        shutil.rmtree(cut.model)
        for checkpoint in list_checkpoints(cut.checkpoints):
            if int(checkpoint.name.removeprefix("step_")) > kept:
                shutil.rmtree(checkpoint)
        resume(cut.path)
        losses = [line["total_loss"] for line in cut.metrics()]
        assert losses == [line["total_loss"] for line in whole.metrics()]
        part = "denoiser/diffusion_pytorch_model.safetensors"
        assert (cut.model / part).read_bytes() == (whole.model / part).read_bytes()


def test_cached_latents_are_those_of_the_encoder(cured: RunConfig, tmp_path: Path):
    system = build_system(cured).eval()
    pictures = load_pictures(cured.data, 0).test
    assert system.normalizer is not None
    system.normalizer.mean.fill_(0.3)
    system.normalizer.var.fill_(4.0)
    flipped = replace(encoding_of(cured), with_flips=True)
    cached = cache_latents(system, pictures, tmp_path, "test", flipped)
    indices = torch.tensor([3, 1, 7])
    flips = torch.tensor([False, True, False])
    images = to_batch(pictures.fetch(indices), "cpu", flips)
    with torch.no_grad():
        direct = system.encode(images, torch.zeros(3, 4, 4, 4))
    mean, logvar = cached.fetch(indices, flips).chunk(2, dim=1)
    torch.testing.assert_close(mean, direct.latents, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(
        logvar, direct.logvar - 2 * torch.tensor(2.0).log(), atol=2e-3, rtol=2e-3
    )


def unflipped(config: RunConfig) -> Encoding:
    return replace(encoding_of(config), with_flips=False)


def test_the_cache_is_found_again_and_made_anew_for_other_weights(cured: RunConfig, tmp_path: Path):
    system = build_system(cured)
    pictures = load_pictures(cured.data, 0).test

    def files() -> dict[str, int]:
        cache_latents(system, pictures, tmp_path, "test", unflipped(cured))
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}

    first = files()
    assert files() == first
    with torch.no_grad():
        next(system.autoencoder.parameters()).add_(1.0)
    assert len(files()) == 2
    exact = replace(cured, run=replace(cured.run, precision="fp32"))
    other = load_pictures(cured.data, 1).train
    few = replace(cured, run=replace(cured.run, precision="bf16"))
    for config, shown in ((exact, pictures), (few, pictures), (exact, other)):
        cache_latents(system, shown, tmp_path, "test", unflipped(config))
    assert len(list(tmp_path.glob("*.npy"))) == 4
    assert not list(tmp_path.glob("*.partial"))
    assert np.load(next(tmp_path.glob("*.npy")), mmap_mode="r").dtype == np.float16


def test_a_denoiser_on_another_runs_autoencoder(cured: RunConfig, tmp_path: Path):
    source = train(replace(cured, run=replace(cured.run, denoiser_epochs=0)), tmp_path / "first")
    config = replace(cured, run=replace(cured.run, autoencoder=str(source.path)))
    folder = train(config, tmp_path / "second")
    theirs, ours = load_pipeline(source.model), load_pipeline(folder.model)
    for key, value in theirs.autoencoder.state_dict().items():
        assert torch.equal(value, ours.autoencoder.state_dict()[key])
    assert torch.equal(theirs.gate.kept, ours.gate.kept)
    assert theirs.autoencoder.config["latents_mean"] == ours.autoencoder.config["latents_mean"]


def test_a_budget_that_the_gate_cannot_meet_is_refused(cured: RunConfig, tmp_path: Path):
    folder = train(cured, tmp_path / "run")
    asked = replace(cured, gate=replace(cured.gate, budget=3))
    with pytest.raises(ConfigError, match="hardened to 2 channels"):
        evaluate_run(folder, asked)
    with pytest.raises(ConfigError, match="hardened to 2 channels"):
        diagnose_model(load_diagnosable(folder.path), asked)


def test_sampling_leaves_out_what_a_static_gate_closed_without_a_budget():
    gate = HardConcreteGate(4, adaptive=False)
    gate.mean_scores.copy_(torch.tensor([9.0, 9.0, -9.0, -9.0]))
    kept = kept_channels(gate)
    assert kept is not None
    assert kept.tolist() == [1, 1, 0, 0]


def test_another_number_of_channels_is_refused(cured: RunConfig, tmp_path: Path):
    source = train(replace(cured, run=replace(cured.run, denoiser_epochs=0)), tmp_path / "first")
    network = replace(cured.network, latent_channels=5)
    config = replace(cured, network=network, run=replace(cured.run, autoencoder=str(source.path)))
    with pytest.raises(ConfigError, match=r"has 4 latent channels: give --network.latent-channels"):
        train(config, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    gate = replace(cured.gate, budget=3)
    config = replace(cured, gate=gate, run=replace(cured.run, autoencoder=str(source.path)))
    with pytest.raises(ConfigError, match="hardened to 2 channels"):
        train(config, tmp_path / "second")


def test_collapse_is_told_once_and_can_stop_the_run(tiny_config: RunConfig, tmp_path: Path):
    shut = replace(
        tiny_config,
        gate=replace(tiny_config.gate, initial_score=-6.0),
        run=replace(tiny_config.run, epochs=2),
    )
    told = train(shut, tmp_path / "told")
    (event,) = told.metrics("event")
    assert event["verdict"] == "collapsed"
    assert event["epoch"] == 1.0
    stop = replace(shut, run=replace(shut.run, on_collapse="stop"))
    with pytest.raises(RunError, match="Stopped at step 8: collapsed"):
        train(stop, tmp_path / "stopped")
    stopped = open_run(tmp_path / "stopped")
    assert stopped.model.is_dir()
    assert len(stopped.metrics("validation")) == 1
    with pytest.raises(RunError, match="Stopped at step 8: collapsed"):
        resume(stopped.path)
    assert not is_finished(stopped)
    assert len(stopped.metrics("validation")) == 1


def test_training_by_the_papers_objective_closes_open_masks(tiny_config: RunConfig, tmp_path: Path):
    """With a strong penalty, eight steps do what epochs do at the paper's."""
    config = replace(
        tiny_config,
        objective=replace(tiny_config.objective, sparsity_weight=1.0),
        gate=replace(tiny_config.gate, learning_rate_factor=200.0),
        run=replace(tiny_config.run, epochs=2),
    )
    folder = train(config, tmp_path / "run")
    assert config.gate.initial_score == 3.0  # masks begin at 0.95
    assert max(folder.metrics("validation")[-1]["mask_mean"]) < 0.1
    assert folder.metrics("event")
    assert evaluate_run(folder).collapse.verdict == "collapsed"


def test_a_run_stopped_at_its_last_step_is_not_finished(tiny_config: RunConfig, tmp_path: Path):
    shut = replace(
        tiny_config,
        gate=replace(tiny_config.gate, initial_score=-6.0),
        run=replace(tiny_config.run, epochs=1, on_collapse="stop"),
    )
    with pytest.raises(RunError, match="collapsed"):
        train(shut, tmp_path / "stopped")
    assert not is_finished(open_run(tmp_path / "stopped"))


def test_a_run_is_written_by_one_process_at_a_time(tiny_config: RunConfig, tmp_path: Path):
    short = replace(tiny_config, run=replace(tiny_config.run, max_steps=2))
    folder = train(short, tmp_path / "run")
    before = folder.metrics_path.read_bytes()
    with folder.held():
        for use in (lambda: resume(folder.path), lambda: evaluate_run(folder)):
            with pytest.raises(RunError, match="written by another process"):
                use()
    assert folder.metrics_path.read_bytes() == before


def test_the_saved_model_decodes_like_the_system(cured: RunConfig, tmp_path: Path):
    folder = train(cured, tmp_path / "run")
    pipeline: Any = load_pipeline(folder.model)
    system = to_system(pipeline, cured).eval()
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    images = pipeline(noise, num_inference_steps=3, output_type="pt").images
    assert torch.isfinite(images).all()
    assert system.normalizer is not None
    kept = system.gate.kept  # type: ignore[union-attr]
    latents = noise * kept[:, None, None]
    with torch.no_grad():
        direct = pipeline.autoencoder.decode(system.normalizer.inverse(latents)).sample
        torch.testing.assert_close(system.decode(latents), direct)


@pytest.mark.parametrize("budget", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["sigmoid", "hard_concrete", "top_k", "nested"])
def test_training_with_a_budget_ends_with_exactly_that_many_open(
    cured: RunConfig, tmp_path: Path, kind: GateKind, budget: int
):
    config = replace(
        cured,
        gate=replace(cured.gate, kind=kind, budget=budget),
        run=replace(cured.run, max_steps=4, denoiser_epochs=0),
    )
    folder = train(config, tmp_path / "run")
    last = folder.metrics("validation")[-1]
    assert last["is_hard"]
    assert sorted(last["mask_mean"]) == [0.0] * (4 - budget) + [1.0] * budget
    assert sum(std > 0 for std in last["masked_latent_std"]) == budget


def test_a_run_of_one_step_meets_its_budget_too(cured: RunConfig, tmp_path: Path):
    config = replace(cured, run=replace(cured.run, max_steps=1, denoiser_epochs=0))
    last = train(config, tmp_path / "run").metrics("validation")[-1]
    assert sum(last["mask_mean"]) == 2


def test_two_processes_train_gate_normaliser_and_both_stages_like_one(
    cured: RunConfig, tmp_path: Path
):
    config = replace(
        cured,
        gate=replace(cured.gate, kind="hard_concrete", harden_at=0.6),
        objective=replace(cured.objective, kl_weight=0.1),
    )
    one = train(config, tmp_path / "one")
    run_in_two_processes("train", "--config", one.config_path, "--output", tmp_path / "two")
    two = RunFolder(tmp_path / "two")
    assert len(two.metrics("train")) == 16
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        assert a["total_loss"] == pytest.approx(b["total_loss"], abs=1e-3), a["step"]
        assert a["mask_mean"] == pytest.approx(b["mask_mean"], abs=1e-3), a["step"]
