"""`pelap export`: the files compute what torch computes, or there are none."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler
from torch import Tensor, nn

from pelap.cli import main
from pelap.config.presets import kl16_small
from pelap.config.run_config import AutoencoderConfig
from pelap.core.errors import ModelError
from pelap.exports import onnx_export as export_module
from pelap.exports import onnx_files as files_module
from pelap.exports.export_record import describe_export
from pelap.exports.graphs import Graph, Tensors, build_graphs
from pelap.exports.onnx_export import export_model
from pelap.exports.onnx_files import compare, write_graph
from pelap.exports.runtime import OnnxNetworks
from pelap.method.build_networks import build_networks
from pelap.method.paper_autoencoder import PaperAutoencoder
from pelap.method.paper_denoiser import PaperUNet
from pelap.method.pipeline import load_pipeline
from pelap.method.sampling import denoise
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from tiny_models import AUTOENCODERS, DENOISERS, SIDE, pack, randomize, unpack

CHANNELS = 6
SCHEDULER = dict(DDIMScheduler(clip_sample=False).config)
BATCHES = (1, 3, 5)


def paper_model() -> LoadedModel:
    statistics = {"latents_mean": [0.5, -1.0, 0, 2, 0, 0.3], "latents_std": [2.0, 0.5, 1, 1, 3, 1]}
    autoencoder = randomize(PaperAutoencoder(CHANNELS, 8, **statistics))
    denoiser = randomize(PaperUNet(CHANNELS, 8, 8))
    return LoadedModel("paper", autoencoder, denoiser, scheduler_config=SCHEDULER)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Path]:
    """A model of the paper's networks, and its export with 8-bit files."""
    torch.manual_seed(0)
    model, folder = paper_model(), tmp_path_factory.mktemp("paper") / "onnx"
    export_model(model, folder, side=SIDE, int8=True)
    return model, folder


def assert_same(model: Any, networks: OnnxNetworks, bound: float = 1e-3) -> None:
    """Encoder, denoiser and decoder against the system that pelap measures."""
    system = model.system()
    channels, side, _ = networks.latent_shape
    for batch in BATCHES:
        noise = torch.randn(batch, channels, side, side)
        expected = system.decode(noise)
        assert float((networks.decode(noise) - expected).abs().max()) < bound
        images = (
            torch.randn_like(expected).clamp(-1, 1).contiguous(memory_format=torch.channels_last)
        )
        means = system.encode_moments(images)[:, :channels]
        assert float((networks.encode(images) - means).abs().max()) < bound
        time = torch.tensor(321)
        prediction = model.denoiser(noise, time).sample
        assert float((networks.predict(noise, time) - prediction).abs().max()) < bound


@torch.no_grad()
def test_paper_networks_compute_the_same(paper: tuple[LoadedModel, Path]):
    model, folder = paper
    assert_same(model, OnnxNetworks(folder, 1))


@torch.no_grad()
def test_kl16_small_computes_the_same(tmp_path: Path):
    network = replace(kl16_small().network, denoiser_layers=1)  # half the blocks to trace
    autoencoder, denoiser = build_networks(network, AutoencoderConfig(), SIDE)
    autoencoder.register_to_config(latents_mean=[0.5] * 16, latents_std=[2.0] * 16)
    model = LoadedModel("kl", autoencoder.eval(), denoiser.eval())
    record = export_model(model, tmp_path / "onnx")
    assert record["latent_shape"] == [16, SIDE, SIDE]
    for network in record["networks"].values():
        assert network["max_difference"].keys() == {"1", "5"}
        assert max(network["max_difference"].values()) < 1e-3
    assert_same(model, OnnxNetworks(tmp_path / "onnx", 1))


@torch.no_grad()
def test_sampling_gives_the_same_pictures(paper: tuple[LoadedModel, Path]):
    model, folder = paper
    networks = OnnxNetworks(folder, 1)
    system = model.system()
    noise = torch.randn(4, *networks.latent_shape)
    latents = denoise(system.denoiser, DDIMScheduler.from_config(SCHEDULER), noise, 3)
    sampler: Any = DDIMScheduler.from_config(networks.scheduler_config)
    sampler.set_timesteps(3)
    found = noise
    for timestep in sampler.timesteps:
        found = sampler.step(networks.predict(found, timestep), timestep, found).prev_sample
    torch.testing.assert_close(found, latents, atol=1e-3, rtol=0)
    torch.testing.assert_close(networks.decode(found), system.decode(latents), atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_page_samples_without_torch(
    paper: tuple[LoadedModel, Path], monkeypatch: pytest.MonkeyPatch
):
    model, folder = paper
    page = Path(__file__).parents[2] / "docs" / "export.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(folder.parent)
    found: dict[str, Any] = {}
    exec(code, found)
    system = model.system()
    drawn = np.random.default_rng(0).standard_normal((4, CHANNELS, SIDE, SIDE), dtype=np.float32)
    sampler = DDIMScheduler.from_config(SCHEDULER)
    expected = system.decode(denoise(system.denoiser, sampler, torch.from_numpy(drawn), 50))
    torch.testing.assert_close(torch.from_numpy(found["images"]), expected, atol=1e-3, rtol=0)


@torch.no_grad()
def test_8_bit_files_state_what_they_lose(paper: tuple[LoadedModel, Path]):
    model, folder = paper
    record = json.loads((folder / "export.json").read_text())
    assert set(record["networks"]) == {"encoder", "denoiser", "decoder"}
    small = OnnxNetworks(folder, 1, int8=True)
    noise = torch.randn(32, *small.latent_shape)
    found = {"denoiser": small.predict(noise, torch.tensor(500)), "decoder": small.decode(noise)}
    system = model.system()
    expected = {"denoiser": system.denoiser(noise, 500).sample, "decoder": system.decode(noise)}
    for name, value in expected.items():
        stated = record["networks"][name]["int8"]
        loss = float((found[name] - value).square().mean().sqrt() / value.std())
        assert 0 < stated["relative_difference"] < 0.05
        assert loss == pytest.approx(stated["relative_difference"], rel=0.5)
        assert stated["size_ratio"] < 1
        assert (folder / stated["file"]).stat().st_size == stated["num_bytes"]
        weights = {node.op_type for node in onnx.load(folder / stated["file"]).graph.node}
        assert "DequantizeLinear" in weights
        assert "ConvInteger" not in weights
        percent = f"{stated['relative_difference']:.1%}"
        assert percent in describe_export(record)


def test_what_is_written_says_nothing_about_this_machine(paper: tuple[LoadedModel, Path]):
    _, folder = paper
    home = str(Path(export_module.__file__).parents[3]).encode()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"site-packages" not in content
            assert home not in content
            assert str(folder.parent).encode() not in content
    assert not list(folder.parent.glob(".*"))


def test_the_files_alone_say_what_they_take(paper: tuple[LoadedModel, Path]):
    _, folder = paper
    record = json.loads((folder / "export.json").read_text())
    for network in record["networks"].values():
        session = onnxruntime.InferenceSession(folder / network["file"])
        for values, nodes in (
            (network["inputs"], session.get_inputs()), (network["outputs"], session.get_outputs()),
        ):  # fmt: skip
            assert {node.name: node.shape for node in nodes} == {
                name: value["shape"] for name, value in values.items()
            }
    assert json.loads((folder / "scheduler" / "scheduler_config.json").read_text()) == SCHEDULER


def export_with(denoiser: str, folder: Path) -> tuple[Any, OnnxNetworks]:
    network = randomize(DENOISERS[denoiser].build(CHANNELS))
    model = LoadedModel(denoiser, randomize(AUTOENCODERS["tiny"]()), network)
    record = export_model(model, folder, side=SIDE)
    assert max(record["networks"]["denoiser"]["max_difference"].values()) < 1e-3
    return network, OnnxNetworks(folder, 1)


@torch.no_grad()
def test_dit_takes_classes_and_loses_its_variances(tmp_path: Path):
    network, networks = export_with("dit", tmp_path / "onnx")
    latents = torch.randn(5, CHANNELS, SIDE, SIDE)
    times = torch.full((5,), 40)
    for labels in (torch.zeros(5, dtype=torch.long), torch.tensor([2, 0, 1, 1, 2])):
        expected = network(latents, timestep=times, class_labels=labels).sample[:, :CHANNELS]
        given = {"class_labels": labels} if labels.any() else {}
        found = networks.predict(latents, torch.tensor(40), **given)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    with pytest.raises(ModelError, match="takes no text, but hidden_states, timestep"):
        networks.predict(latents, torch.tensor(40), text=labels)


@pytest.mark.slow
@torch.no_grad()
def test_flux_gets_patches_and_its_own_time(tmp_path: Path):
    network, networks = export_with("flux", tmp_path / "onnx")
    graph = build_graphs(LoadedModel("", AUTOENCODERS["tiny"](), network), SIDE)[1]
    inputs = graph.inputs(1, 0)
    latents = torch.randn(1, CHANNELS, SIDE, SIDE)
    inputs |= {"hidden_states": pack(latents), "timestep": torch.tensor([0.25])}
    expected = unpack(graph.run(inputs)["prediction"])
    found = networks.predict(latents, torch.tensor(250.0))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DENOISERS, *(f"autoencoder {n}" for n in AUTOENCODERS)])
def test_every_class_computes_the_same(name: str, tmp_path: Path):
    kind = name.removeprefix("autoencoder ")
    if name in DENOISERS:
        model = LoadedModel(name, PaperAutoencoder(CHANNELS, 8).eval())
        model = replace(model, denoiser=randomize(DENOISERS[name].build(CHANNELS)))
    else:
        model = LoadedModel(name, randomize(AUTOENCODERS[kind]()))
    record = export_model(model, tmp_path / "onnx", side=SIDE, int8=True)
    for network in record["networks"].values():
        assert max(network["max_difference"].values()) < 1e-3
    networks = OnnxNetworks(tmp_path / "onnx", 1, int8=True)
    latents = torch.randn(2, *networks.latent_shape)
    if name in DENOISERS:
        assert networks.predict(latents, torch.tensor(9)).shape == latents.shape
    assert networks.decode(latents).isfinite().all()


class SmallDivisor(nn.Module):
    """Squeezes what cannot be squeezed, and adds 1e-15: what PixArt and Sana do."""

    def forward(self, inputs: Tensors) -> Tensors:
        x = inputs["x"].squeeze(1)
        return {"y": x / (x + 1e-15)}


def test_two_mistakes_of_the_exporter_are_kept_out(tmp_path: Path):
    def inputs(batch: int, seed: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(batch, 3, 1) + seed}

    graph = Graph("denoiser", "SmallDivisor", SmallDivisor().eval(), inputs)
    write_graph(graph, tmp_path / "small.onnx")
    assert compare(graph, tmp_path / "small.onnx") == {"1": 0.0, "5": 0.0}
    session = files_module.open_session(tmp_path / "small.onnx", 1)
    zero = files_module.run_session(session, inputs(2, 0))
    assert torch.equal(zero["y"], torch.zeros(2, 3, 1))


def test_closed_channels_of_a_run_are_closed_in_the_files(tmp_path: Path):
    options = ["--gate.kind", "top_k", "--gate.no-adaptive", "--gate.budget", "2",
               "--run.max-steps", "4"]  # fmt: skip
    assert main(["train", "tiny", "--output", str(tmp_path / "run"), *options]) == 0
    kept = load_pipeline(tmp_path / "run" / "model").gate.kept
    assert int(kept.sum()) == 2
    model: Any = open_model(tmp_path / "run")
    _, denoiser, decoder = build_graphs(model, None)
    latents = torch.randn(3, 4, 4, 4)
    open_ = latents * kept[:, None, None]
    found = denoiser.run({"sample": latents, "timestep": torch.full((3,), 7)})["prediction"]
    with torch.no_grad():
        assert torch.equal(found, model.denoiser(open_, 7).sample)
        expected = model.system().decode(open_)
    assert torch.equal(decoder.run({"latents": latents})["images"], expected)


@pytest.fixture
def half_precision(tmp_path: Path) -> Path:
    """The folder of an autoencoder saved in float16."""
    autoencoder = randomize(AUTOENCODERS["tiny"]()).half()
    assert isinstance(autoencoder, AutoencoderTiny)
    autoencoder.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_a_difference_leaves_nothing_behind(
    half_precision: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    command = ["export", str(half_precision), "--size", "4", "--format", "onnx"]
    output = half_precision.parent / "onnx"
    with monkeypatch.context() as patch:
        patch.setattr(export_module, "MAX_DIFFERENCE", -1.0)
        assert main([*command, "--output", str(output)]) == 2
        error = capsys.readouterr().err
        assert "encoder.onnx differs from torch by" in error
        assert len(error.strip().splitlines()) == 1
    assert [path.name for path in half_precision.parent.iterdir()] == ["vae"]

    assert main([*command, "--output", str(output), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    record = json.loads(captured.out)
    assert set(record["networks"]) == {"encoder", "decoder"}
    assert record["networks"]["encoder"]["outputs"] == {
        "latents": {"shape": ["batch", CHANNELS, 4, 4], "dtype": "float32"}
    }
    networks = OnnxNetworks(output, 1)
    assert networks.latent_shape == (CHANNELS, 4, 4)
    with pytest.raises(ModelError, match="holds no denoiser"):
        networks.predict(torch.zeros(1, CHANNELS, 4, 4), torch.tensor(0))
    assert main([*command, "--output", str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_large_weights_lie_beside_the_graph(
    half_precision: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(files_module, "MOST_BYTES_INSIDE", 0)
    model = open_model(half_precision)
    record = export_model(model, tmp_path / "onnx", side=4, int8=True)
    decoder = record["networks"]["decoder"]
    assert (tmp_path / "onnx" / "decoder.onnx.data").stat().st_size < decoder["num_bytes"]
    assert "int8" in decoder
    assert decoder["int8"]["size_ratio"] < 1
    latents = torch.randn(2, CHANNELS, 4, 4)
    plain, small = (OnnxNetworks(tmp_path / "onnx", 1, int8=int8) for int8 in (False, True))
    close = (plain.decode(latents) - small.decode(latents)).abs().max()
    assert 0 < float(close) < 0.1


@pytest.mark.parametrize("size", ["0", "5"])
def test_a_side_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
):
    run = tmp_path / "run"
    assert main(["train", "tiny", "--output", str(run), "--run.max-steps", "1"]) == 0
    capsys.readouterr()
    command = ["export", str(run), "--output", str(tmp_path / "onnx"), "--size", size]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert ("--size is 0:" if size == "0" else "--size 5 (made for 4):") in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "onnx").exists()


def test_the_missing_extra_is_named(
    half_precision: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    output = half_precision.parent / "onnx"
    assert main(["export", str(half_precision), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error == "pelap: onnxruntime is not installed: pip install 'pelap[onnx]'.\n"
    assert not output.exists()


def test_a_folder_without_an_export_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"holds no export\.json"):
        OnnxNetworks(tmp_path)
