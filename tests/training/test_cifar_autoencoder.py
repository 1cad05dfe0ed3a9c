"""The preset cifar_autoencoder: its losses, its rate, and the network that compares features."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pelap.cli import main
from pelap.config.presets import cifar, cifar_autoencoder
from pelap.config.run_checks import load_config
from pelap.config.run_config import AutoencoderConfig, RunConfig, save_config
from pelap.core.errors import DataError
from pelap.data.load import load_pictures
from pelap.method.cifar_resnet import CifarResNet, fuse_batch_norms
from pelap.method.losses import absolute_loss, feature_loss
from pelap.method.step import load_feature_network
from pelap.method.system import build_system
from pelap.training.preparation import worth_compiling
from pelap.training.stage_objective import judge_classes
from pelap.training.stages import plan_stages
from pelap.training.trainer import train


def test_absolute_loss_is_the_mean_distance():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = np.abs(a.numpy() - b.numpy()).mean()
    assert float(absolute_loss(a, b)) == pytest.approx(expected)


def test_feature_loss_is_relative_layer_by_layer():
    ours = [torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 8, 4, 4)]
    theirs = [torch.randn(2, 4, 8, 8, requires_grad=True), torch.randn(2, 8, 4, 4)]
    pairs = [(a.detach().numpy(), b.detach().numpy()) for a, b in zip(ours, theirs, strict=True)]
    expected = np.mean([((a - b) ** 2).mean() / (b**2).mean() for a, b in pairs])
    loss = feature_loss(ours, theirs)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    louder = feature_loss([100 * x for x in ours], [100 * x for x in theirs])
    assert float(louder.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(feature_loss(theirs, theirs).detach()) == 0
    assert float(feature_loss([0 * x for x in ours], theirs).detach()) == pytest.approx(1)
    loss.backward()
    assert theirs[0].grad is None  # originals are a reference, not a lever
    assert ours[0].grad is not None


def test_fused_batch_norms_change_no_feature():
    network = CifarResNet(depth=20)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_var is not None
            assert module.running_mean is not None
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean)
    network.eval()
    pictures = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = network.block_features(pictures)
        fuse_batch_norms(network)
        after = network.block_features(pictures)
    assert [x.shape[1:] for x in before[::3]] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_networks_have_the_sizes_they_are_described_with():
    system = build_system(cifar())
    parts = (system.autoencoder, system.denoiser)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [pytest.approx(1.65e6, rel=0.01), pytest.approx(7.64e6, rel=0.01)]
    assert 2 * sum(counts) < 20e6  # bytes in bf16: what assets may weigh
    assert not any("attentions" in name for name in system.autoencoder.state_dict())


def test_the_transformer_begins_as_published():
    system: Any = build_system(cifar())
    transformer = system.denoiser.denoiser.requires_grad_(False)
    block = transformer.transformer_blocks[0]
    embedder = block.norm1.emb
    for layer in (embedder.timestep_embedder.linear_1, embedder.timestep_embedder.linear_2):
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(embedder.class_embedder.embedding_table.weight.std()) == pytest.approx(
        0.02, rel=0.05
    )
    for layer in (block.norm1.linear, transformer.proj_out_1, transformer.proj_out_2):
        assert not bool(layer.weight.any())
    noisy = torch.randn(2, 16, 8, 8)
    said = transformer(noisy, torch.tensor([1.0, 2.0]), torch.tensor([3, 1000])).sample
    assert not bool(said.any())


def test_on_a_cpu_only_networks_whose_input_needs_no_gradient_are_compiled():
    cpu, config = torch.device("cpu"), cifar()
    system = build_system(config)
    encoder, decoder = system.autoencoder.encoder, system.autoencoder.decoder
    transformer = system.denoiser.denoiser
    assert worth_compiling(system, config, cpu) == [encoder, transformer]
    joint = replace(config, run=replace(config.run, denoiser_epochs=None))
    assert worth_compiling(system, joint, cpu) == [encoder]
    cuda = torch.device("cuda")
    assert worth_compiling(system, joint, cuda) == [encoder, decoder, transformer]


def test_the_rate_is_constant_and_then_falls(tiny_config: RunConfig):
    optimizer = replace(
        tiny_config.optimizer,
        learning_rate=1.0,
        final_learning_rate=0.2,
        schedule="trapezoid",
        cooldown_epochs=2.0,
        warmup_steps=4,
    )
    config = replace(
        tiny_config, optimizer=optimizer, run=replace(tiny_config.run, epochs=5, denoiser_epochs=3)
    )
    first, second = plan_stages(config, 10)
    rates = [first.learning_rate(step, optimizer, 10) for step in range(50)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:31] == [1.0] * 27
    assert rates[31:] == pytest.approx([0.2 + 0.8 * left / 20 for left in range(19, 0, -1)])
    assert second.learning_rate(50, optimizer, 10) == 0.25
    longer = replace(config, run=replace(config.run, epochs=9))
    (unchanged, _) = plan_stages(longer, 10)
    assert [unchanged.learning_rate(step, longer.optimizer, 10) for step in range(31)] == rates[:31]


def test_levels_survive_the_config_file(tmp_path: Path):
    save_config(cifar_autoencoder(), tmp_path / "config.json")
    loaded = load_config(tmp_path / "config.json")
    assert loaded == cifar_autoencoder()
    assert loaded.autoencoder == AutoencoderConfig((32, 64, 96), False, 1.0, 0.1)


@pytest.mark.parametrize("widths", ["[32, 64]", "[32, 64, 96.5]", '"32"', "32"])
def test_levels_of_the_wrong_kind_are_one_line(tmp_path: Path, widths: str, capsys: Any):
    path = tmp_path / "config.json"
    save_config(cifar_autoencoder(), path)
    text = path.read_text().replace("[\n      32,\n      64,\n      96\n    ]", widths)
    path.write_text(text)
    assert main(["train", "--config", str(path), "--output", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "widths" in line


def test_a_feature_loss_without_weights_says_where_they_are_sought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    config = cifar_autoencoder()
    monkeypatch.delenv("PELAP_DATA")
    with pytest.raises(DataError, match="set PELAP_DATA"):
        load_feature_network(config, torch.device("cpu"))
    monkeypatch.setenv("PELAP_DATA", str(tmp_path))
    with pytest.raises(DataError, match="No ResNet-32 weights"):
        load_feature_network(config, torch.device("cpu"))
    without = replace(config, autoencoder=replace(config.autoencoder, feature_weight=0.0))
    assert load_feature_network(without, torch.device("cpu")) is None


def test_every_loss_is_trained_on_and_written_down(cifar10: Path, tmp_path: Path):
    config = cifar_autoencoder()
    config = replace(
        config,
        data=replace(config.data, num_train=256, num_test=32, batch_size=32),
        autoencoder=replace(config.autoencoder, widths=(8, 8, 16)),
        run=replace(config.run, epochs=2, log_every=1, precision="fp32"),
        optimizer=replace(config.optimizer, warmup_steps=0, cooldown_epochs=0.0),
    )
    folder = train(config, tmp_path / "run")
    lines = folder.metrics("train")
    for name in ("absolute_loss", "reconstruction_loss", "feature_loss"):
        assert lines[-1][name] < lines[0][name]
    last = lines[-1]
    total = last["reconstruction_loss"] + last["absolute_loss"] + 0.1 * last["feature_loss"]
    assert last["total_loss"] == pytest.approx(total + 1e-5 * last["kl_loss"], rel=1e-5)


def test_the_judge_knows_real_pictures(cifar10: Path):
    config = replace(cifar().data, num_train=1, num_test=500)
    test = load_pictures(config, 0).test
    pictures = test.fetch(torch.arange(500))
    accuracy = judge_classes(pictures, test.labels, test.class_names)
    assert accuracy == pytest.approx(0.917, abs=0.03)
    wrong = judge_classes(pictures, (test.labels + 1) % 10, test.class_names)
    assert wrong is not None
    assert wrong < 0.05
    assert judge_classes(pictures, test.labels, ("cat", "dog")) is None
