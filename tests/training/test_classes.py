"""A class-conditional flow transformer: trained, resumed, told classes, loaded without pelap."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from PIL import Image
from torch import Tensor, nn

from pelap.cli import main
from pelap.config.run_config import (
    GateConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
)
from pelap.config.run_folder import RunFolder
from pelap.data.load import load_pictures
from pelap.data.pictures import to_batch
from pelap.families.conditioned import (
    Condition,
    ConditionedDenoiser,
    class_condition,
    flow_sigmas,
    tell_classes,
)
from pelap.measure.noise_levels import BATCH_SIZE, diagnose
from pelap.measure.run_evaluation import evaluate_run
from pelap.measure.run_sampling import load_system
from pelap.method.pipeline import load_pipeline, read_class_names, to_system
from pelap.method.sampling import denoise, flow_sampler
from pelap.method.step import make_draws
from pelap.method.system import LatentDiffusion, build_system
from pelap.models.opening import open_model
from pelap.training.checkpoint import list_checkpoints
from pelap.training.trainer import resume, train
from tiny_pipelines import PIPELINES

NUM_CLASSES = 8
"""Photographs that the embedded pictures are cut from."""
SCRIPT = Path(__file__).parents[1] / "stock_generate.py"


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def told_classes(config: RunConfig) -> RunConfig:
    """A tiny flow transformer that is told classes, trained after its autoencoder."""
    return replace(
        config,
        network=replace(
            config.network,
            autoencoder="kl",
            denoiser="dit",
            denoiser_channels=64,
            denoiser_layers=1,
            num_classes=NUM_CLASSES,
            normalize_latents=True,
        ),
        gate=GateConfig(kind="open"),
        objective=ObjectiveConfig(sparsity_weight=0.0, condition_dropout=0.25),
        noise=NoiseConfig(process="flow"),
        optimizer=OptimizerConfig(learning_rate=1e-3, schedule="trapezoid", ema_decay=0.9),
        run=replace(config.run, epochs=1, denoiser_epochs=2, samples_every=1, keep_checkpoints=99),
        evaluation=replace(config.evaluation, sampler="dpm-solver++", guidance=2.0),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    from pelap.config.presets import tiny

    config = tiny()
    config = replace(config, data=replace(config.data, num_train=128, num_test=32))
    return train(told_classes(config), tmp_path_factory.mktemp("runs") / "run")


# What is trained


class Flow(nn.Module):
    """Answers noise − latents, so that a flow's loss is 0; or what it is given."""

    def __init__(self, answer: Tensor):
        super().__init__()
        self.answer = answer
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, hidden_states: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.seen.append((hidden_states, timestep))
        return (self.answer,)


def test_the_loss_is_that_of_flow_matching(tiny_config: RunConfig):
    config = told_classes(tiny_config)
    system = build_system(config)
    draws = make_draws(config, 6, "draws", 0, torch.device("cpu"))
    moments = torch.cat([torch.randn(6, 4, 4, 4), torch.full((6, 4, 4, 4), -30.0)], dim=1)
    latents = moments[:, :4]
    condition = Condition({}, "hidden_states", is_flow=True)
    for answer in (draws.noise - latents, torch.zeros_like(latents)):
        network = Flow(answer)
        system.denoiser = ConditionedDenoiser(network, condition)
        output = system(moments, draws, "denoiser")
        found = (output.prediction - output.target).square()
        expected = (answer - (draws.noise - latents)).square()
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        sigmas = flow_sigmas()[draws.timesteps].float()
        noisy = (1 - sigmas)[:, None, None, None] * latents
        noisy = noisy + sigmas[:, None, None, None] * draws.noise
        given, timesteps = network.seen[-1]
        torch.testing.assert_close(given, noisy, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(timesteps.float(), 1000 * sigmas)


def test_timesteps_are_logit_normal_in_training_and_even_in_validation(tiny_config: RunConfig):
    config = told_classes(tiny_config)
    cpu = torch.device("cpu")
    sigmas = make_draws(config, 20_000, "draws", 0, cpu).timesteps / 1000
    inside = (sigmas > torch.sigmoid(torch.tensor(-1.0))) & (
        sigmas < torch.sigmoid(torch.tensor(1.0))
    )
    assert float(inside.float().mean()) == pytest.approx(0.683, abs=0.02)
    even = make_draws(config, 20_000, "validation", 0, cpu).timesteps / 1000
    assert float(even.std()) == pytest.approx(12**-0.5, abs=0.01)


def test_some_pictures_lose_their_class_in_all_blocks_alike(tiny_config: RunConfig):
    config = told_classes(tiny_config)
    draws = make_draws(config, 4000, "draws", 0, torch.device("cpu"))
    assert float(draws.condition_drops.float().mean()) == pytest.approx(0.25, abs=0.03)
    system = build_system(config)
    labels = torch.arange(4000) % NUM_CLASSES
    told = tell_classes(system.denoiser, labels, draws.condition_drops)
    assert told is not None
    assert torch.equal(told["class_labels"] == 1000, draws.condition_drops)
    kept = ~draws.condition_drops
    assert torch.equal(told["class_labels"][kept], labels[kept])
    # diffusers' own dropping, anew in each block, is off: two passes in training mode agree
    system.train()
    for parameter in system.denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    noisy, timesteps = torch.randn(16, 4, 4, 4), torch.full((16,), 500)
    told = {"class_labels": labels[:16]}
    first = system.predict(noisy, timesteps, told)
    assert torch.equal(first, system.predict(noisy, timesteps, told))
    assert not torch.allclose(first, system.predict(noisy, timesteps))


def test_nobody_is_told_classes_where_the_denoiser_takes_none(tiny_config: RunConfig):
    assert (
        tell_classes(build_system(tiny_config).denoiser, torch.zeros(3, dtype=torch.long)) is None
    )


def test_a_unet_is_told_classes_too(tiny_config: RunConfig, tmp_path: Path):
    config = told_classes(tiny_config)
    config = replace(
        config,
        network=replace(config.network, denoiser="unet_2d", denoiser_channels=32),
        noise=NoiseConfig(prediction="v_prediction"),
        run=replace(config.run, denoiser_epochs=1),
        evaluation=replace(config.evaluation, sampler="ddim"),
    )
    folder = train(config, tmp_path / "run")
    assert folder.metrics("samples")[-1]["num_samples"] == NUM_CLASSES
    assert len(read_class_names(folder.model)) == NUM_CLASSES
    system = to_system(load_pipeline(folder.model), config).eval()
    assert system.denoiser.condition.arguments["class_labels"].item() == NUM_CLASSES
    noisy, timesteps = torch.randn(2, 4, 4, 4), torch.tensor([300, 300])
    ours = system.predict(noisy, timesteps, {"class_labels": torch.tensor([1, 2])})
    theirs = system.denoiser.denoiser(noisy, timesteps, torch.tensor([1, 2])).sample
    assert torch.equal(ours, theirs)
    pipeline: Any = load_pipeline(folder.model)
    drawn = pipeline(noisy, 2, "pt", torch.tensor([1, 2]), 3.0).images
    assert drawn.shape == (2, 3, 16, 16)
    assert not torch.equal(drawn, pipeline(noisy, 2, "pt").images)
    output = tmp_path / "grid.png"
    assert main(["sample", str(folder.path), "--classes", "1,2", "--num", "3", "--steps", "2",
                 "--guidance", "3", "--output", str(output)]) == 0  # fmt: skip
    assert size_of(output) == (3 * 16, 2 * 16)


# What comes out


def test_grids_are_drawn_and_written_down(run: RunFolder):
    lines = run.metrics("samples")
    assert [line["step"] for line in lines] == [16, 24]  # after each epoch of the denoiser's
    for line in lines:
        assert line["class_accuracy_resnet20"] is None  # the judge knows CIFAR-10 only
        assert size_of(run.path / line["grid"]) == (
            16 * line["num_samples"] // NUM_CLASSES,
            16 * NUM_CLASSES,
        )


def test_stock_diffusers_loads_it_and_draws_the_same(run: RunFolder, tmp_path: Path):
    command = [sys.executable, str(SCRIPT), str(run.model), str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (stock,) = json.loads((tmp_path / "out.json").read_text())
    assert stock["pipeline"] == "DiTPipeline"
    system = to_system(load_pipeline(run.model), run.config()).eval()
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    told = {"class_labels": torch.tensor([1])}
    latents = denoise(system.denoiser, flow_sampler(), noise, 2, told=told, guidance=4.0)
    images = (system.decode(latents).detach() / 2 + 0.5).clamp(0, 1)
    assert float(images.mean()) == pytest.approx(stock["mean"], abs=1e-5)
    assert float(images.std(correction=0)) == pytest.approx(stock["std"], abs=1e-5)


def test_the_saved_autoencoder_holds_the_normaliser(run: RunFolder):
    pipeline = load_pipeline(run.model)
    assert isinstance(pipeline, DiTPipeline)
    checkpoint = list_checkpoints(run.checkpoints)[-1]
    from safetensors.torch import load_file

    system = build_system(run.config())
    system.load_state_dict(load_file(checkpoint / "model.safetensors"))
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = system.eval().encode_moments(images)
    found = to_system(pipeline, run.config()).eval().encode_moments(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_guidance_goes_beyond_what_is_said_untold():
    class Teller(nn.Module):
        def forward(
            self, noisy: Tensor, timestep: Tensor, told: dict[str, Any] | None = None
        ) -> UNet2DOutput:
            said = 0.0 if told is None else told["class_labels"].view(-1, 1, 1, 1).float()
            return UNet2DOutput(sample=torch.zeros_like(noisy) + said)

    class Once:
        """A sampler of one step that gives back what it is told."""

        timesteps = torch.tensor([500])

        def set_timesteps(self, *_: Any, **__: Any) -> None: ...

        def step(self, prediction: Tensor, *_: Any) -> Any:
            return type("Output", (), {"prev_sample": prediction})

    told = {"class_labels": torch.tensor([2, 3])}
    for guidance, expected in ((1.0, [2.0, 3.0]), (2.5, [5.0, 7.5])):
        teller: Any = Teller()
        noise = torch.randn(2, 1, 1, 1)
        found = denoise(teller, Once(), noise, 1, told=told, guidance=guidance)
        assert found.flatten().tolist() == expected


def test_evaluation_samples_classes_in_turn(run: RunFolder):
    result = evaluate_run(run)
    assert result.sampler.guidance == 2.0
    assert result.collapse.verdict != "collapsed"


def test_the_verdict_of_an_evaluation_is_of_a_denoiser_that_is_told(run: RunFolder):
    config, system = run.config(), load_system(run, torch.device("cpu"))
    test = load_pictures(config.data, config.run.seed).test
    images = to_batch(test.fetch(torch.arange(len(test))), "cpu")
    assert len(images) <= BATCH_SIZE
    seed, labels = config.evaluation.seed, test.labels
    told, untold = (
        diagnose(system, images, num_levels=2, seed=seed, tell=tell).recovery[0].relative_error
        for tell in (lambda _: tell_classes(system.denoiser, labels), None)
    )
    assert evaluate_run(run).relative_error == told != untold


def test_a_finished_model_is_opened_as_any_pipeline(run: RunFolder):
    model = open_model(run.path)
    assert (model.autoencoder_name, model.denoiser_name) == ("vae", "transformer")
    model.check()


# Going on


def cut(run: RunFolder, path: Path, last: int) -> RunFolder:
    """A copy of a run that was killed after its checkpoint of that step."""
    import shutil

    copy = RunFolder(path)
    shutil.copytree(run.path, copy.path)
    for checkpoint in list_checkpoints(copy.checkpoints):
        if int(checkpoint.name.removeprefix("step_")) > last:
            shutil.rmtree(checkpoint)
    return copy


def losses(run: RunFolder) -> list[float]:
    return [line["total_loss"] for line in run.metrics() if "total_loss" in line]


@pytest.mark.parametrize("last", [8, 16])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(run: RunFolder, tmp_path: Path, last: int):
    copy = cut(run, tmp_path / "copy", last)
    resume(copy.path)
    assert losses(copy) == losses(run)
    part = "transformer/diffusion_pytorch_model.safetensors"
    assert (copy.model / part).read_bytes() == (run.model / part).read_bytes()


def test_a_copy_is_trained_longer_and_cooled_down(run: RunFolder, tmp_path: Path):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    output = tmp_path / "longer"
    changes = ["--run.denoiser-epochs", "4", "--optimizer.cooldown-epochs", "1"]
    assert main(["resume", str(run.path), "--output", str(output), *changes]) == 0
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    longer = RunFolder(output)
    assert longer.config().run.denoiser_epochs == 4
    rates = {line["step"]: line["learning_rate"] for line in longer.metrics("train")}
    assert [rates[step] for step in (30, 32)] == [1e-3, 1e-3]
    assert rates[40] == pytest.approx(1e-5 + (1e-3 - 1e-5) / 8)
    assert losses(longer)[: len(losses(run))] == losses(run)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["--network.patch-size", "2"], "cannot be changed here"),
        (["--optimizer.learning-rate", "1"], "cannot be changed here"),
        (["--run.epochs", "3"], "denoiser's training follows it"),
        (["--run.max-steps", "3"], "denoiser's training follows it"),
        (["--run.denoiser-epochs", "None"], "one after the other"),
        (["--run.denoiser-epochs", "1"], "has taken 24 steps"),
        (["--evaluation.batch-size", "7"], "cannot be changed here"),
        (["--run.denoiser-epoch", "3"], "--run.denoiser-epochs?"),
    ],
)
def test_what_a_resumed_run_cannot_change(
    run: RunFolder, capsys: pytest.CaptureFixture[str], changes: list[str], match: str
):
    assert main(["resume", str(run.path), *changes]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line


def test_a_run_that_another_process_holds_keeps_its_config(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
):
    before = run.config_path.read_bytes()
    with run.held():
        assert main(["resume", str(run.path), "--run.denoiser-epochs", "9"]) == 2
    assert "another process" in capsys.readouterr().err
    assert run.config_path.read_bytes() == before


def test_a_cosine_was_made_for_its_length(tiny_run: RunFolder, capsys: pytest.CaptureFixture[str]):
    assert main(["resume", str(tiny_run.path), "--run.epochs", "9"]) == 2
    assert "trapezoid" in capsys.readouterr().err


def test_a_run_begins_with_the_networks_of_another(run: RunFolder, tmp_path: Path):
    config = run.config()
    for source in (run.path, run.model, run.model / "vae"):  # a run, stock pipeline and part
        taken = replace(
            config,
            run=replace(config.run, autoencoder=str(source), begin_with=str(run.path), max_steps=1),
            optimizer=replace(config.optimizer, learning_rate=1e-9, final_learning_rate=0.0),
        )
        begun = train(taken, tmp_path / source.name)
        weights = [
            pipeline.transformer.state_dict() | pipeline.vae.state_dict()
            for pipeline in (load_pipeline(folder.model) for folder in (begun, run))
            if isinstance(pipeline, DiTPipeline)
        ]
        for name, tensor in weights[1].items():
            torch.testing.assert_close(weights[0][name], tensor, atol=1e-5, rtol=0)


def test_the_autoencoder_of_a_run_without_a_denoiser_is_taken(
    tiny_config: RunConfig, tmp_path: Path
):
    config = told_classes(tiny_config)
    alone = replace(
        config,
        network=replace(config.network, denoiser="paper", num_classes=0),
        noise=NoiseConfig(),
        run=replace(config.run, denoiser_epochs=0),
    )
    source = train(alone, tmp_path / "autoencoder")
    taken = replace(
        config, run=replace(config.run, autoencoder=str(source.path), denoiser_epochs=1)
    )
    folder = train(taken, tmp_path / "run")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    ours, theirs = (
        to_system(load_pipeline(one.model), settings).eval()
        for one, settings in ((folder, taken), (source, alone))
    )
    expected = theirs.encode_moments(images)
    torch.testing.assert_close(ours.encode_moments(images), expected, atol=1e-4, rtol=1e-4)


def test_an_autoencoder_that_shrinks_otherwise_is_refused(
    run: RunFolder, tmp_path: Path, capsys: Any
):
    PIPELINES["ldm"]().vqvae.save_pretrained(tmp_path / "vae")
    command = ["train", "--config", str(run.config_path), "--output", str(tmp_path / "run"),
               "--run.autoencoder", str(tmp_path / "vae")]  # fmt: skip
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "shrinks pictures by 2" in line
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "cannot be loaded" in line
    assert not (tmp_path / "run").exists()


def test_an_autoencoder_is_trained_on_from_a_stock_folder(run: RunFolder, tmp_path: Path):
    config = run.config()
    config = replace(
        config,
        run=replace(config.run, begin_with=str(run.model), denoiser_epochs=0, max_steps=1),
        optimizer=replace(config.optimizer, learning_rate=1e-9, final_learning_rate=0.0),
    )
    begun = train(config, tmp_path / "begun")
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    ours, theirs = (
        to_system(load_pipeline(folder.model), config).eval() for folder in (begun, run)
    )
    expected = theirs.decode(theirs.encode_moments(images)[:, :4])
    found = ours.decode(ours.encode_moments(images)[:, :4])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_denoiser_of_another_shape_is_refused(run: RunFolder, tmp_path: Path, capsys: Any):
    config = tmp_path / "config.json"
    config.write_bytes(run.config_path.read_bytes())
    command = ["train", "--config", str(config), "--output", str(tmp_path / "run"),
               "--run.autoencoder", str(run.path), "--run.begin-with", str(run.path)]  # fmt: skip
    assert main([*command, "--network.denoiser-layers", "2"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--run.begin-with" in line
    assert not (tmp_path / "run").exists()


# Mistakes


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["--network.num-classes", "3"], "the pictures have 8"),
        (["--network.num-classes", "0"], "needs 1 to 1000"),
        (["--network.denoiser-channels", "72"], "multiple of 64"),
        (["--network.patch-size", "3"], "must divide"),
        (["--network.denoiser", "paper"], "--network.num-classes"),
        (["--network.denoiser", "unet_2d"], "--noise.process flow"),
        (["--gate.kind", "top_k"], "--gate.kind open"),
        (["--objective.condition-dropout", "1.5"], "in [0, 1]"),
        (["--run.samples-every", "0"], "at least 1"),
        (["--autoencoder.widths", "8", "16", "12"], "multiples of 8"),
        (["--noise.num-timesteps", "100"], "a flow has 1000"),
        (["--network.autoencoder", "paper", "--autoencoder.no-attention"], "autoencoder kl"),
        (["--autoencoder.feature-weight", "0.1"], "--data.size 32"),
    ],
)
def test_settings_that_no_run_can_use_are_one_line(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    settings: list[str], match: str,
):  # fmt: skip
    output = tmp_path / "new"
    command = ["train", "--config", str(run.config_path), "--output", str(output)]
    assert main([*command, *settings]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--classes", "boat"], "'boat'"),
        (["--classes", "8"], "'8'"),
        (["--classes", ""], "''"),
        (["--guidance", "2"], "needs --classes"),
        (["--classes", "all", "--guidance", "0.5"], "at least 1"),
        (["--classes", "all", "--num", "0"], "at least 1"),
    ],
)
def test_sampling_mistakes_are_one_line(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], match: str,
):  # fmt: skip
    output = tmp_path / "grid.png"
    assert main(["sample", str(run.path), "--output", str(output), "--steps", "2", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert match in line
    assert not output.exists()


def test_classes_have_nobody_to_tell(tiny_run: RunFolder, tmp_path: Path, capsys: Any):
    output = tmp_path / "grid.png"
    assert main(["sample", str(tiny_run.path), "--output", str(output), "--classes", "all"]) == 2
    assert "knows no classes" in capsys.readouterr().err


def test_class_names_choose_rows(run: RunFolder, tmp_path: Path):
    names = read_class_names(run.model)
    output = tmp_path / "grid.png"
    command = ["sample", str(run.path), "--output", str(output), "--steps", "2", "--num", "2",
               "--classes", f"{names[3]},0"]  # fmt: skip
    assert main(command) == 0
    assert size_of(output) == (32, 32)


def test_a_condition_of_none_is_the_last_class(tiny_config: RunConfig):
    system = build_system(told_classes(tiny_config))
    assert isinstance(system, LatentDiffusion)
    condition = class_condition(system.denoiser.denoiser, is_flow=True)
    assert condition.arguments["class_labels"].tolist() == [1000]
