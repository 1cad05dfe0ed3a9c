"""`pelap prune` from the command line: what comes out, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, LDMPipeline
from torch import Tensor, nn

from pelap.cli import main
from pelap.families.ports import AutoencoderPorts, Port
from pelap.models.opening import open_model
from pelap.pruning.apply import plan_pruning, prune, save_pruned
from pelap.pruning.latents.latent_plan import PruneRequest
from tiny_models import AUTOENCODERS, randomize
from tiny_pipelines import PIPELINES

SCRIPT = Path(__file__).parents[1] / "stock_generate.py"
PICTURES = ["--data.source", "photos", "--data.size", "16", "--num-pictures", "24",
            "--num-curve", "16", "--num-search", "8", "--learned-steps", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tiny pipeline, saved."""
    root = tmp_path_factory.mktemp("pipelines")
    for name, build in PIPELINES.items():
        build().save_pretrained(root / name)
    return root


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


WAYS = {
    "latents": ["--keep", "0,2,3"],
    "width": ["--denoiser-macs", "0.8", "--denoiser-criterion", "magnitude"],
    "both": ["--keep", "0,2,3", "--denoiser-macs", "0.8", "--denoiser-criterion", "random"],
}


def test_stock_diffusers_runs_every_pruned_pipeline(pipelines: Path, tmp_path: Path):
    before = listing(pipelines)
    pruned = {(name, way): tmp_path / f"{name}-{way}" for name in PIPELINES for way in WAYS}
    for (name, way), folder in pruned.items():
        assert main(["prune", str(pipelines / name), *WAYS[way], "--output", str(folder)]) == 0
    assert before == listing(pipelines)
    command = [sys.executable, SCRIPT, *pruned.values(), tmp_path / "o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = zip(pruned.items(), json.loads((tmp_path / "o").read_text()), strict=True)
    for ((name, way), folder), found in results:
        index = json.loads((pipelines / name / "model_index.json").read_text())
        original = open_model(pipelines / name)
        assert found["pipeline"] == index["_class_name"]
        assert found["latent_channels"] == (original.num_channels if way == "width" else 3)
        assert found["shape"] == [1, *([32, 32] if name == "sana" else [16, 16]), 3]
        assert found["finite"]
        untouched = {k: v for k, v in index.items() if k.startswith(("text", "token", "sched"))}
        written = json.loads((folder / "model_index.json").read_text())
        assert untouched.items() <= written.items()
        assert (found["denoiser_parameters"] < 0.9 * count(original.denoiser)) == (way != "latents")


def count(network: Any) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("rotation", ["pca", "decoder"])
@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_3"])
def test_rotation_that_keeps_everything_draws_the_same_picture(
    pipelines: Path, tmp_path: Path, name: str, rotation: str
):
    channels = open_model(pipelines / name).num_channels
    command = ["prune", str(pipelines / name), "--keep", str(channels), "--rotate", rotation]
    assert main([*command, "--output", str(tmp_path / "turned"), *PICTURES]) == 0
    history = open_model(tmp_path / "turned").history
    basis = torch.tensor(history[-1]["encode"])  # (C, C)
    torch.testing.assert_close(basis @ basis.T, torch.eye(channels), atol=1e-5, rtol=0)
    noise = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(3))
    turned = torch.einsum("kc,bchw->bkhw", basis, noise)
    expected = draw(pipelines / name, noise)
    torch.testing.assert_close(draw(tmp_path / "turned", turned), expected, atol=1e-3, rtol=0)


def draw(folder: Path, noise: Tensor) -> Tensor:
    pipeline: Any = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    width = denoiser.config.get("cross_attention_dim") or denoiser.config.joint_attention_dim
    source = torch.Generator().manual_seed(1)
    words = torch.randn(1, 5, width, generator=source)
    options: dict[str, Any] = {"prompt_embeds": words, "negative_prompt_embeds": words * 0.5}
    if "pooled_projection_dim" in denoiser.config:
        pooled = torch.randn(1, denoiser.config.pooled_projection_dim, generator=source)
        options |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": pooled}
    return pipeline(
        latents=noise, num_inference_steps=4, output_type="pt", height=16, width=16, **options
    ).images


def test_a_pruning_that_nobody_measured_can_be_saved_from_python(pipelines: Path, tmp_path: Path):
    model = open_model(pipelines / "ldm")
    plan = plan_pruning(model, PruneRequest(channels=(0, 2), fill="zero"), None)
    save_pruned(prune(model, plan), tmp_path / "pruned", {})
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert "was not measured" in card
    assert "parameters" not in card
    assert LDMPipeline.from_pretrained(tmp_path / "pruned").vqvae.config["latent_channels"] == 2


def test_best_channels_are_found_and_the_card_says_what_they_cost(pipelines: Path, tmp_path: Path):
    output = tmp_path / "pruned"
    command = ["prune", str(pipelines / "ldm"), "--keep", "3", "--output", str(output), *PICTURES]
    assert main(command) == 0
    (record,) = open_model(output).history
    assert record["channels_after"] == 3
    assert record["fill"] == "linear"
    assert record["psnr_db"] <= record["psnr_db_before"] + 1
    card = (output / "README.md").read_text()
    assert f"{record['psnr_db']:.2f}" in card
    assert str(tmp_path) not in card
    assert main(command) == 2  # never overwrites
    assert main([*command, "--overwrite"]) == 0
    again = tmp_path / "again"
    assert main(["prune", str(output), "--keep", "0,1", "--output", str(again)]) == 0
    assert [one["channels_after"] for one in open_model(again).history] == [3, 2]
    assert "Before that" in (again / "README.md").read_text()
    assert LDMPipeline.from_pretrained(again).vqvae.config["latent_channels"] == 2


def test_max_psnr_drop_keeps_the_fewest(
    pipelines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["prune", str(pipelines / "ldm"), *PICTURES, "--dry-run", "--max-psnr-drop"]
    assert main([*command, "50"]) == 0
    assert "4 → 1" in capsys.readouterr().out
    assert main([*command, "0"]) == 0
    assert not list(tmp_path.iterdir())


def test_a_run_becomes_a_stock_pipeline(tmp_path: Path):
    run = tmp_path / "run"
    options = ["--network.autoencoder", "kl", "--network.denoiser", "unet_2d",
               "--network.latent-channels", "4", "--network.normalize-latents",
               "--gate.kind", "open", "--objective.sparsity-weight", "0",
               "--network.denoiser-channels", "32", "--run.max-steps", "4"]  # fmt: skip
    assert main(["train", "tiny", "--output", str(run), *options]) == 0
    system = open_model(run).system()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = system.encode_moments(images)[:, [1, 3]]
    output = tmp_path / "pruned"
    command = ["prune", str(run), "--keep", "1,3", "--fill", "zero", "--output", str(output)]
    assert main([*command, "--num-pictures", "8", "--num-curve", "8", "--learned-steps", "0"]) == 0
    pipeline: Any = LDMPipeline.from_pretrained(output)
    latents = pipeline.vqvae.encode(images).latent_dist.mean
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)
    assert len(pipeline(num_inference_steps=2, output_type="np").images) == 1


def test_paper_networks_keep_their_own_pipeline(tmp_path: Path):
    run = tmp_path / "run"
    assert main(["train", "tiny", "--output", str(run), "--run.max-steps", "2"]) == 0
    output = tmp_path / "pruned"
    command = ["prune", str(run), "--keep", "0,1,2", "--output", str(output), "--fill", "zero"]
    assert main([*command, "--num-pictures", "8", "--num-curve", "8", "--learned-steps", "0"]) == 0
    assert open_model(output).num_channels == 3


@pytest.mark.parametrize("kind", ["kl_shifted_without_quant", "kl_with_statistics", "dc"])
def test_an_autoencoder_alone_gets_its_scale_anew(tmp_path: Path, kind: str):
    randomize(AUTOENCODERS[kind]()).save_pretrained(tmp_path / "vae")
    output = tmp_path / "pruned"
    size = ["--data.size", "32"]
    command = ["prune", str(tmp_path / "vae"), "--keep", "3", "--output", str(output)]
    assert main([*command, *PICTURES, *size]) == 0
    from pelap.data.load import load_pictures
    from pelap.data.pictures import to_batch
    from pelap.models.model_pictures import pictures_config

    model = open_model(output)
    data = pictures_config(model, ["--data.source", "photos", *size]).data
    images = to_batch(load_pictures(data, 0).train.fetch(torch.arange(64)), "cpu")
    with torch.no_grad():
        moments = model.system().encode_moments(images)
    means, logvars = moments.chunk(2, dim=1)
    power = means.square().mean() + logvars.exp().mean()
    assert 0.7 < float(power) < 1.4


def test_half_precision_variants_keep_their_name_and_precision(pipelines: Path, tmp_path: Path):
    source = tmp_path / "half"
    pipeline = DiffusionPipeline.from_pretrained(pipelines / "ldm").to(torch.float16)
    pipeline.save_pretrained(source, variant="fp16")
    output = tmp_path / "pruned"
    command = ["prune", str(source), "--keep", "2", "--output", str(output)]
    assert main([*command, *PICTURES]) == 0
    assert (output / "vqvae" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert LDMPipeline.from_pretrained(output, variant="fp16").unet.config["in_channels"] == 2
    model = open_model(output)
    assert model.denoiser is not None
    assert {p.dtype for p in model.denoiser.parameters()} == {torch.float16}


class OwnAutoencoder(nn.Module):
    """Somebody's own, without a config."""

    latent_channels = 4
    ports = AutoencoderPorts(encoder=(Port("reader"),), decoder="writer")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.reader = nn.Conv2d(3, 4, 2, stride=2)
        self.writer = nn.Conv2d(4, 12, 1)

    def encode(self, images: Tensor) -> Tensor:
        return self.reader(images)

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.writer(latents), 2)


def test_ones_own_autoencoder_is_pruned_through_its_ports(tmp_path: Path):
    output = tmp_path / "pruned"
    factory = ["--autoencoder", f"{__name__}:OwnAutoencoder"]
    command = ["prune", *factory, "--keep", "0,3", "--output", str(output)]
    assert main(command) == 0
    from safetensors.torch import load_file

    weights = load_file(output / "model.safetensors")
    original = OwnAutoencoder()
    assert torch.equal(weights["reader.weight"], original.reader.weight[[0, 3]])
    assert torch.equal(weights["writer.weight"], original.writer.weight[:, [0, 3]])


def pickled(folder: Path) -> None:
    for weights in folder.rglob("*.safetensors"):
        weights.with_suffix(".bin").write_bytes(b"pickle")
        weights.unlink()


def without_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def damaged(folder: Path) -> None:
    (folder / "vqvae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")


def unknown_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet3DConditionModel"]
    (folder / "model_index.json").write_text(json.dumps(index))


def other_code(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["vqvae"] = ["my_code", "AutoencoderKL2"]
    (folder / "model_index.json").write_text(json.dumps(index))


def mismatched(folder: Path) -> None:
    AutoencoderKL(latent_channels=5, norm_num_groups=4, block_out_channels=(8,)).save_pretrained(
        folder / "vqvae"
    )


@pytest.mark.parametrize(
    ("break_it", "options", "match"),
    [
        (pickled, ["--keep", "0,1"], "pickled weights"),
        (without_weights, ["--keep", "0,1"], "holds no weights"),
        (damaged, ["--keep", "0,1"], "is damaged"),
        (unknown_class, ["--keep", "0,1"], "UNet3DConditionModel, which is not supported"),
        (other_code, ["--keep", "0,1"], "my_code.AutoencoderKL2"),
        (mismatched, ["--keep", "0,1"], "do not belong together"),
        (None, ["--keep", "0,4"], "0 to 3"),
        (None, ["--keep", "0,0"], "distinct"),
        (None, ["--keep", "9"], "has 4 channels"),
        (None, ["--keep", "0"], "at least 1"),
        (None, ["--keep", "two"], "--keep is 'two'"),
        (None, ["--keep", "2"], "--data.source"),
        (None, [], "--max-psnr-drop"),
        (None, ["--keep", "0,1", "--rotate", "pca"], "give --keep a number"),
        (None, ["--keep", "0,1", "--criterion", "kl"], "nothing to choose"),
        (None, ["--keep", "2", "--criterion", "x", *PICTURES], "Unknown criterion 'x'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_nothing_written(
    pipelines: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    break_it: Callable[[Path], None] | None,
    options: list[str],
    match: str,
):
    source, output = tmp_path / "source", tmp_path / "output"
    shutil.copytree(pipelines / "ldm", source)
    if break_it is not None:
        break_it(source)
    before = listing(tmp_path)
    assert main(["prune", str(source), "--output", str(output), *options]) == 2
    error = capsys.readouterr().err
    assert match in error
    assert len(error.strip().splitlines()) == 1
    assert before == listing(tmp_path)


def test_what_tanh_forbids_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny = randomize(AUTOENCODERS["tiny"]())
    assert isinstance(tiny, AutoencoderTiny)
    tiny.save_pretrained(tmp_path / "vae")
    command = ["prune", str(tmp_path / "vae"), "--keep", "3", "--output", str(tmp_path / "out")]
    assert main([*command, *PICTURES, "--fill", "linear"]) == 2
    assert "squashes" in capsys.readouterr().err
    assert main([*command, *PICTURES, "--rotate", "pca"]) == 2
    assert main([*command, *PICTURES]) == 0
    assert open_model(tmp_path / "out").history[-1]["fill"] == "mean"


def test_a_missing_model_and_an_unreachable_hub_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in (str(tmp_path / "nothing"), "nobody/nothing"):
        assert main(["prune", name, "--keep", "0,1", "--output", str(tmp_path / "o")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
