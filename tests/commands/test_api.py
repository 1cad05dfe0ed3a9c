"""The package as people use it from Python: records in memory, and what the command would write."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, LDMPipeline
from safetensors.torch import load_file
from torch import nn

import pelap
from pelap.cli import main
from pelap.config.run_folder import RunFolder
from pelap.core.errors import ConfigError, ModelError
from tiny_pipelines import PIPELINES

PICTURES = pelap.pictures("photos", size=16)
MEASURED: dict[str, Any] = {"num_pictures": 24, "num_curve": 16, "num_search": 8,
                            "learned_steps": 2}  # fmt: skip


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files_of(folder: Path) -> dict[str, Any]:
    """What a model folder holds, weights as tensors."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found |= {f"{name} {key}": value.tolist() for key, value in load_file(path).items()}
        elif path.suffix == ".json":
            found[name] = json.loads(path.read_text())
        elif path.is_file():
            found[name] = path.read_text()
    return found


def test_five_lines_on_a_pipeline_in_memory_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    pipeline = PIPELINES["ldm"]()
    before = weights(pipeline.vqvae), weights(pipeline.unet)

    model = pelap.open_model(pipeline)
    analysis = pelap.analyze(model, PICTURES, **MEASURED)
    small = pelap.prune(model, keep=2, rotate="decoder", analysis=analysis)
    smaller = small.pipeline()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    recovered = pelap.recover(small, PICTURES, teacher=model, steps=2, batch_size=4,
                              num_pictures=8)  # fmt: skip

    assert isinstance(smaller, LDMPipeline)
    assert smaller.unet.config["in_channels"] == smaller.vqvae.config["latent_channels"] == 2
    assert smaller(num_inference_steps=2, output_type="np").images.shape[0] == 1  # type: ignore
    assert same(before[0], weights(pipeline.vqvae))
    assert same(before[1], weights(pipeline.unet))
    history = recovered.loaded().history
    assert [("pruned" in step, "recovered" in step) for step in history] == [
        (True, False),
        (False, True),
    ]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    recovered.save("small")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "temporary"]
    stock = DiffusionPipeline.from_pretrained("small", use_safetensors=True)
    assert same(weights(stock.unet), weights(recovered.pipeline().unet))
    card = Path("small/README.md").read_text()
    assert card.index("recovered") < card.index("Latent channels were removed")
    assert card.count("library_name") == 1


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ldm"
    PIPELINES["ldm"]().save_pretrained(folder)
    return folder


def test_save_writes_what_the_command_writes(ldm: Path, tmp_path: Path):
    command = ["prune", str(ldm), "--keep", "0,2", "--fill", "zero", "--denoiser-macs", "0.8",
               "--denoiser-criterion", "magnitude"]  # fmt: skip
    assert main([*command, "--output", str(tmp_path / "by_command")]) == 0
    pruned = pelap.prune(ldm, keep=[0, 2], fill="zero", denoiser_macs=0.8,
                         denoiser_criterion="magnitude")  # fmt: skip
    pruned.save(tmp_path / "by_call")
    assert files_of(tmp_path / "by_call") == files_of(tmp_path / "by_command")


def test_a_pipeline_in_memory_is_saved_as_its_folder_would_be(ldm: Path, tmp_path: Path):
    for source, name in ((PIPELINES["ldm"](), "memory"), (ldm, "folder")):
        pelap.prune(source, keep=[0, 2], fill="zero").save(tmp_path / name)
    memory, folder = files_of(tmp_path / "memory"), files_of(tmp_path / "folder")
    for name in ("README.md", ".pelap.json", "model_index.json"):
        del memory[name], folder[name]
    assert {name: value for name, value in memory.items() if "config" not in name} == {
        name: value for name, value in folder.items() if "config" not in name
    }
    assert memory.keys() == folder.keys()


def test_a_prompted_pipeline_keeps_its_other_parts_in_memory():
    pipeline = PIPELINES["stable_diffusion_xl"]()
    small = pelap.prune(pelap.open_model(pipeline), keep=[0, 1], fill="zero").pipeline()
    assert type(small) is type(pipeline)
    assert small.text_encoder is pipeline.text_encoder  # type: ignore[attr-defined]
    assert small.unet.config["in_channels"] == 2  # type: ignore[attr-defined]


def test_a_dry_run_holds_a_plan_and_no_model(ldm: Path):
    planned = pelap.prune(ldm, keep=[1], fill="zero", dry_run=True)
    assert "4 → 1" in planned.describe()
    with pytest.raises(ConfigError, match="dry run"):
        planned.pipeline()


def test_an_autoencoder_alone_is_no_pipeline(tmp_path: Path):
    PIPELINES["ldm"]().vqvae.save_pretrained(tmp_path / "vae")
    with pytest.raises(ModelError, match="autoencoder on its own"):
        pelap.prune(tmp_path / "vae", keep=[0], fill="zero").pipeline()


def test_mistakes_in_python_are_pelap_errors(ldm: Path):
    with pytest.raises(ConfigError, match="names no pictures"):
        pelap.analyze(ldm)
    with pytest.raises(ConfigError, match="num_curve is 0"):
        pelap.analyze(ldm, PICTURES, num_curve=0)
    with pytest.raises(ModelError, match="cannot be imported"):
        pelap.open_model("no.such.module:factory")


def test_records_are_shown_in_a_notebook(ldm: Path):
    shown = pelap.prune(ldm, keep=[0, 3], fill="zero")._repr_html_()
    assert "4 → 2" in shown
    assert shown.startswith("<pre>")
    analysis = pelap.analyze(ldm, PICTURES, keep=2, **MEASURED)
    assert "keep " in analysis.describe()
    assert analysis._repr_html_().count("data:image/png;base64,") == 1


def test_pictures_are_told_by_their_source(tmp_path: Path):
    assert pelap.pictures("cifar10").source == "cifar10"
    folder = pelap.pictures(tmp_path, size=64, resize=True)
    assert (folder.source, folder.path, folder.size) == ("folder", str(tmp_path), 64)
    assert pelap.pictures("someone/pictures").source == "dataset"


def test_a_run_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from dataclasses import replace

    config = pelap.get_preset("tiny")
    config = replace(config, run=replace(config.run, max_steps=2),
                     data=replace(config.data, num_train=64, num_test=32))  # fmt: skip
    run = pelap.train(config, tmp_path / "run")
    assert isinstance(pelap.resume(run), RunFolder)
    evaluation = pelap.evaluate(run, ["psnr"])
    assert "psnr_db" in evaluation.describe()
    diagnosis = pelap.diagnose(tmp_path / "run", num_pictures=8)
    assert diagnosis.as_dict() == json.loads(run.diagnosis_path.read_text())
    assert pelap.sample(run, tmp_path / "grid.png", steps=2, num=4).path.is_file()
    assert pelap.report([run]).path == tmp_path / "run" / "report.html"
    opened = pelap.open_model(run.path)
    assert pelap.diagnose(opened, num_pictures=8).values["split"] == "test"


def test_a_pipeline_in_memory_is_asked_for_its_condition():
    pipeline = PIPELINES["dit"]()
    found = pelap.diagnose(pipeline, PICTURES, num_pictures=4, unconditional=True)
    assert found.values["split"] == "test"
    with pytest.raises(ConfigError, match="one of 1,000 classes"):
        pelap.diagnose(pipeline, PICTURES, num_pictures=4)
