"""`pelap bench sample`: what it counts is right, what it times is what is sampled."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from pelap.cli import main
from pelap.commands.bench_sample import BenchSettings
from pelap.commands.bench_sampling import bench_sample, open_subject
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ConfigError, ModelError
from pelap.exports.runtime import OnnxNetworks
from pelap.families.registry import denoiser_family, example_inputs
from pelap.measure.alternation import alternate, ratio
from pelap.measure.bench_record import Ratio
from pelap.measure.macs import count_call_macs, count_denoiser_macs
from pelap.measure.sampling_time import Sampling, Seconds, TorchNetworks, make_scheduler
from pelap.method.sampling import build_sampler, denoise
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from tiny_pipelines import PIPELINES

CPU = torch.device("cpu")
QUICK = BenchSettings(steps=2, batch_sizes=(1, 2), rounds=1)
FLOW = {"stable_diffusion_3": "FlowMatchEulerDiscreteScheduler",
        "flux": "FlowMatchEulerDiscreteScheduler",
        "chroma": "FlowMatchEulerDiscreteScheduler",
        "sana": "DPMSolverMultistepScheduler"}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every tiny pipeline, saved without its text encoders."""
    root = tmp_path_factory.mktemp("pipelines")
    for name, build in PIPELINES.items():
        build().save_pretrained(root / name)
    return {name: root / name for name in PIPELINES}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, LoadedModel]:
    """The same, opened."""
    return {name: open_model(folder) for name, folder in folders.items()}


def networks_of(model: LoadedModel, side: int = 8, **options: Any) -> TorchNetworks:
    return TorchNetworks(model, side, **options)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_kind_of_model_is_counted_and_timed(models: dict[str, LoadedModel], name: str):
    model = models[name]
    (found,) = bench_sample(model, None, replace(QUICK, precision=("bf16", "fp32"))).models
    parameters: Any = found.parameters
    networks: list[Any] = [model.autoencoder, model.denoiser]
    assert parameters["total"] == sum(p.numel() for n in networks for p in n.parameters())
    assert (
        parameters["encoder"] + parameters["decoder"] + parameters["denoiser"]
        == (parameters["total"])
    )
    decoder = networks[0].decoder
    post_quant = getattr(networks[0], "post_quant_conv", None)
    both = [decoder, post_quant] if post_quant is not None else [decoder]
    assert parameters["decoder"] == sum(p.numel() for n in both for p in n.parameters())
    channels, side, _ = found.latent_shape
    assert channels == model.num_channels
    assert found.latent_bytes == 2 * channels * side * side
    assert found.macs["denoiser_step"] == count_denoiser_macs(networks[1], side)
    latents = torch.zeros(1, channels, side, side)
    assert found.macs["decode"] == count_call_macs(lambda: networks[0].decode(latents))
    assert found.scheduler == FLOW.get(name, "DDIMScheduler")
    settings = [(m.precision, m.batch_size) for m in found.measurements]
    assert settings == [("bf16", 1), ("bf16", 2), ("fp32", 1), ("fp32", 2)]
    for one in found.measurements:
        assert one.pictures_per_second == pytest.approx(1 / one.seconds_per_picture)
        assert 0 < one.denoising_share < 1
        assert not one.compiled
    assert all(p.dtype == torch.float32 for n in networks for p in n.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", PIPELINES)
def test_networks_compute_what_the_model_computes(models: dict[str, LoadedModel], name: str):
    model = models[name]
    denoiser: Any = model.denoiser
    inputs = example_inputs(denoiser, 2, 8)
    first = next(iter(inputs))
    latents = torch.randn(2, model.num_channels, 8, 8)
    packing, divisor = denoiser_family(denoiser).packing, 1000 if name in ("flux", "chroma") else 1
    inputs |= {first: packing.pack(latents), "timestep": torch.full((2,), 321.0 / divisor)}
    expected = packing.unpack(denoiser(**inputs).sample, 8, 8)[:, : latents.shape[1]]
    networks = networks_of(model)
    found = networks.predict(latents, torch.tensor(321.0))
    assert found.shape == latents.shape
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(networks.decode(latents), model.system().decode(latents))


def test_inpainting_takes_its_mask_and_picture_along():
    from tiny_models import AUTOENCODERS, DENOISERS

    model = LoadedModel("inpainting", AUTOENCODERS["kl"](), DENOISERS["unet_inpainting"].build(6))
    prediction = networks_of(model).predict(torch.randn(2, 6, 8, 8), torch.tensor(3))
    assert prediction.shape == (2, 6, 8, 8)


@torch.no_grad()
def test_a_sampling_is_the_one_that_pelap_draws(
    models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
):
    model, decoded = models["ldm"], []
    networks = networks_of(model)
    monkeypatch.setattr(networks, "decode", decoded.append)
    scheduler = make_scheduler(model.scheduler_config, "dpm-solver++")
    Sampling(networks, scheduler, (4, 8, 8), 5, CPU).run(3)
    system = model.system()
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampler = build_sampler("dpm-solver++", system.scheduler)
    torch.testing.assert_close(decoded[0], denoise(system.denoiser, sampler, noise, 5))


@torch.no_grad()
def test_bf16_is_close_and_leaves_the_model_alone(models: dict[str, LoadedModel]):
    model = models["stable_diffusion"]
    latents, step = torch.randn(2, 4, 8, 8), torch.tensor(500)
    exact, rounded = networks_of(model), networks_of(model, precision="bf16")
    for call in ("predict", "decode"):
        more = (step,) if call == "predict" else ()
        expected = getattr(exact, call)(latents, *more)
        found = getattr(rounded, call)(latents, *more)
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # inductor's
def test_compiled_networks_are_timed_beside_eager_ones(models: dict[str, LoadedModel]):
    settings = replace(QUICK, batch_sizes=(2,), compile=True)
    (found,) = bench_sample(models["ldm"], None, settings).models
    assert [one.compiled for one in found.measurements] == [False, True]


def test_attention_is_counted():
    queries = torch.zeros(1, 2, 5, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_call_macs(lambda: attention(queries, queries, queries)) == 2 * 2 * 5 * 5 * 8


class Hungry:
    """Networks that hold a known number of bytes."""

    def predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return latents + torch.zeros(1000, 1000).sum() + timestep * 0

    def decode(self, latents: Tensor) -> Tensor:
        large = torch.zeros(len(latents), 500, 1000)
        return large + 1


def test_memory_is_what_is_held_at_once():
    sampling = Sampling(Hungry(), DDIMScheduler(), (1, 2, 2), 50, CPU)
    for _ in range(2):  # what ran before does not matter
        for batch_size, most in ((1, 4_000_000), (8, 32_000_000)):
            assert most <= sampling.working_memory(batch_size) < most + 10_000


def test_memory_counts_the_weights_that_sampling_needs(models: dict[str, LoadedModel]):
    (found,) = bench_sample(models["dit"], None, replace(QUICK, batch_sizes=(1, 8))).models
    parameters: Any = found.parameters
    weights = 4 * (parameters["denoiser"] + parameters["decoder"])
    one, two = (m.peak_memory_bytes or 0 for m in found.measurements)
    assert weights < one < two < 20 * weights


def test_candidates_take_turns():
    order: list[str] = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    alternate(calls, 3)
    assert "".join(order) == "abbaab"
    assert ratio([2.0, 3.0, 8.0], [1.0, 2.0, 2.0]) == (2.0, 1.5, 4.0)


def test_ratio_is_the_other_model_over_this_one(
    models: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
):
    def run(sampling: Sampling, batch_size: int, steps: int | None = None) -> Seconds:
        return Seconds(2.0, 1.0) if sampling.shape[0] == 8 else Seconds(1.0, 1.0)

    monkeypatch.setattr(Sampling, "run", run)
    settings = BenchSettings(batch_sizes=(4,), rounds=3)
    found = bench_sample(models["dit"], models["stable_diffusion_3"], settings)
    assert found.ratios == [Ratio("fp32", False, 4, 1.5, 1.5, 1.5)]
    first, second = (model.measurements[0] for model in found.models)
    assert first.seconds_per_picture == 0.5
    assert first.denoising_share == 0.5
    assert second.pictures_per_second == pytest.approx(4 / 3)


def test_schedulers_of_flow_matching_are_the_models_own():
    config = dict(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0).config)
    config["_class_name"] = "FlowMatchEulerDiscreteScheduler"
    scheduler = make_scheduler(config, "ddim")
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    scheduler.set_timesteps(4)
    assert scheduler.config["shift"] == 3.0
    with pytest.raises(ModelError, match="AutoencoderKL"):
        make_scheduler({"_class_name": "AutoencoderKL"}, "ddim")
    assert isinstance(make_scheduler({}, "ddim"), DDIMScheduler)


def test_a_run_in_words_and_json(tiny_run: RunFolder, capsys: pytest.CaptureFixture[str]):
    run = str(tiny_run.path)
    command = ["bench", "sample", run, "--against", run, "--steps", "2", "--rounds", "2",
               "--batch-sizes", "1", "2"]  # fmt: skip
    assert main(command) == 0
    words = capsys.readouterr().out.splitlines()
    assert words[0].startswith("ddim, 2 steps, 2 rounds, cpu")
    assert words[1] == "tiny is so many times as fast as tiny:"
    assert len([line for line in words if "fp32, eager" in line]) == 6
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = {"models", "ratios", "sampler", "steps", "rounds", "backend", "device", "machine",
                "versions", "format_version"}  # fmt: skip
    assert set(found) == expected
    assert found["models"][0]["latent_shape"] == [4, 4, 4]
    assert len(found["ratios"]) == 2


def test_onnxruntime_times_exports_and_models(tiny_run: RunFolder, tmp_path: Path):
    from pelap.exports.onnx_export import export_model

    model = open_model(tiny_run.path)
    export_model(model, tmp_path / "onnx")
    export = open_subject(tmp_path / "onnx")
    assert isinstance(export, OnnxNetworks)
    found = bench_sample(model, export, replace(QUICK, backend="onnxruntime"))
    assert [one.backend for one in found.models] == ["onnxruntime"] * 2
    assert found.models[0].latent_shape == found.models[1].latent_shape == (4, 4, 4)
    assert (found.models[0].parameters["total"] or 0) > 0
    assert found.models[1].parameters["total"] is None
    assert found.models[1].measurements[0].peak_memory_bytes is None
    mixed = bench_sample(model, export, QUICK)
    assert [one.backend for one in mixed.models] == ["torch", "onnxruntime"]
    for more, match in (({"compile": True}, "--compile"), ({"precision": ("bf16",)}, "fp32"),
                        ({"size": 8}, "exported for latents of 4")):  # fmt: skip
        with pytest.raises((ConfigError, ModelError), match=match):
            bench_sample(export, None, replace(QUICK, **more))


def test_one_compiler_error_is_one_line(monkeypatch: pytest.MonkeyPatch):
    from torch._dynamo.exc import TorchDynamoException

    from pelap.models.precision import InPrecision

    def compile_(call: Any, **options: Any) -> Any:
        def run(*arguments: Any) -> None:
            raise TorchDynamoException("no\nC++ compiler")

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    network = torch.nn.Identity()
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        InPrecision(network, "fp32", compiled=True)(torch.zeros(1))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["{ldm}", "--sampler", "euler"], "known are ddpm"),
        (["{ldm}", "--steps", "0"], "--steps is 0"),
        (["{ldm}", "--steps", "1001"], "from 1 to 1000"),
        (["{ldm}", "--rounds", "0"], "--rounds"),
        (["{ldm}", "--batch-sizes", "4", "0"], "--batch-sizes has 0"),
        (["{ldm}", "--precision", "fp16"], "known are fp32, bf16"),
        (["{ldm}", "--backend", "jax"], "known are torch"),
        (["{ldm}", "--backend", "onnxruntime", "--precision", "bf16"], "fp32"),
        (["{ldm}", "--backend", "onnxruntime", "--compile"], "--compile is for torch"),
        (["{ldm}", "--device", "tpu"], "known are cpu"),
        (["{ldm}", "--size", "0"], "--size is 0"),
        (["{ldm}", "--size", "3"], "cannot sample latents of --size 3"),
        (["{flux}", "--size", "9"], "cannot sample latents of --size 9"),
        (["{dit}", "--size", "7"], "cannot sample latents of --size 7"),
        (["{ldm}/vqvae"], "has no denoiser"),
        (["{ldm}/nowhere"], "No model"),
        (["{ldm}", "--against", "{ldm}/vqvae"], "has no denoiser"),
        (["{ldm}", "--run.seed", "1"], "takes no setting"),
    ],
)
def test_mistakes_are_one_line(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], match: str
):
    given = [argument.format(**folders) for argument in arguments]
    assert main(["bench", "sample", *given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert match in captured.err


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU here"):
        BenchSettings(device="cuda").check()
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(
        is_available=lambda: True, is_bf16_supported=lambda including_emulation: False
    ))  # fmt: skip
    with pytest.raises(ConfigError, match="bf16"):
        BenchSettings(device="cuda", precision=("bf16",)).check()
