"""`pelap recover`: pictures drawn on the way, and what makes a training fit into memory."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import pelap
from pelap.cli import main
from pelap.core.errors import ConfigError
from pelap.families.registry import denoiser_ports
from pelap.models.opening import open_model
from pelap.training.recovery import recovery_settings
from pelap.training.recovery.adapters import add_adapters, merge_adapters
from tiny_pipelines import PIPELINES

DATA = ["--data.source", "photos", "--data.size", "16"]
SHORT = ["--batch-size", "8", "--num-pictures", "8", "--steps", "4", "--learning-rate", "1e-4"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pipelines, and the same with channels 0 and 2 only."""
    root = tmp_path_factory.mktemp("models")
    for name in ("ldm", "stable_diffusion"):
        PIPELINES[name]().save_pretrained(root / name)
        command = ["prune", str(root / name), "--keep", "0,2"]
        assert main([*command, "--output", str(root / f"{name}-pruned")]) == 0
    return root


def recover(models: Path, name: str, output: Path, *options: str, teacher: bool = True) -> int:
    taught = ["--teacher", str(models / name)] if teacher else []
    command = ["recover", str(models / f"{name}-pruned"), "--output", str(output), *taught]
    return main([*command, *SHORT, *options, *DATA])


def weights(folder: Path, part: str = "unet") -> dict[str, Tensor]:
    return load_file(folder / part / "diffusion_pytorch_model.safetensors")


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_grids_show_teacher_above_student(models: Path, tmp_path: Path):
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    assert recover(models, "ldm", plain) == 0
    options = ["--validation-every", "2", "--tracker", "tensorboard"]
    assert recover(models, "ldm", drawn, *options) == 0
    assert furthest(weights(plain), weights(drawn)) == 0  # drawing changes nothing
    grids = sorted((drawn / "validation").iterdir())
    assert [path.name for path in grids] == ["step_0.png", "step_2.png", "step_4.png"]
    first, last = (Image.open(io.BytesIO(path.read_bytes())) for path in (grids[0], grids[-1]))
    middle = first.height - 16 - 160 - 4  # between the rows
    upper = [grid.crop((0, middle - 160, grid.width, middle)).tobytes() for grid in (first, last)]
    lower = [grid.crop((0, middle, grid.width, grid.height)).tobytes() for grid in (first, last)]
    assert upper[0] == upper[1]
    assert lower[0] != lower[1]
    events = [path for path in drawn.rglob("events.out.tfevents*") if path.is_file()]
    assert any(b"validation" in path.read_bytes() for path in events)


def test_grids_need_what_the_model_can_be_told(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a red fox\n\nthe sea\n", encoding="utf-8")
    every, file = ["--validation-every", "4"], ["--validation-prompts", str(prompts)]
    for name, options, expected in (
        ("ldm", file, "--validation-prompts needs --validation-every N"),
        ("ldm", [*every, *file], "has nobody to tell"),
        (
            "stable_diffusion",
            [*every, "--validation-prompts", str(out), "--unconditional"],
            "cannot be read as text",
        ),
    ):
        assert recover(models, name, out, *options) == 2
        assert expected in capsys.readouterr().err
    assert not out.exists()
    options = [*every, *file, "--unconditional"]
    assert recover(models, "stable_diffusion", out, *options, teacher=False) == 0
    with Image.open(out / "validation" / "step_4.png") as grid:
        width = grid.width
    assert width == 16 + 84 + 2 * 160 + 8 + 16


def test_parts_of_a_batch_give_the_gradient_of_the_whole(models: Path, tmp_path: Path):
    folders = {option: tmp_path / option for option in ("whole", "parts", "again", "bf16")}
    assert recover(models, "ldm", folders["whole"]) == 0
    assert recover(models, "ldm", folders["parts"], "--accumulate", "4") == 0
    assert recover(models, "ldm", folders["again"], "--gradient-checkpointing") == 0
    assert recover(models, "ldm", folders["bf16"], "--precision", "bf16") == 0
    found = {name: weights(folder) for name, folder in folders.items()}
    moved = furthest(found["whole"], weights(models / "ldm-pruned"))
    assert furthest(found["whole"], found["parts"]) < 0.1 * moved
    assert furthest(found["whole"], found["again"]) < 0.1 * moved
    assert furthest(found["whole"], found["bf16"]) > 0
    records = {name: open_model(folder).history[-1] for name, folder in folders.items()}
    assert records["bf16"]["precision"] == "bf16"
    assert records["whole"]["precision"] == "fp32"
    assert records["bf16"]["noise_loss"] == pytest.approx(records["whole"]["noise_loss"], rel=1e-2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"accumulate": 3}, "must be a multiple"),
        ({"train": "lora", "parts": "pruned"}, "exclude each other"),
        ({"precision": "fp8"}, "known are auto, fp32, bf16"),
        ({"rank": 0}, "--rank is 0"),
    ],
)
def test_settings_are_refused(models: Path, options: dict[str, Any], expected: str):
    with pytest.raises(ConfigError, match=expected):
        pelap.recover(models / "ldm-pruned", steps=1, **options)


def test_packages_and_devices_that_are_missing_are_named(
    models: Path, monkeypatch: pytest.MonkeyPatch
):
    def found(present: bool) -> None:
        spec = object() if present else None
        monkeypatch.setattr(recovery_settings.importlib.util, "find_spec", lambda _: spec)

    found(False)
    for name, value, package in (("train", "lora", "peft"), ("optimizer", "adamw8bit", "bitsand")):
        options: Any = {name: value}
        with pytest.raises(ConfigError, match=f"needs the package {package}.*lowmem"):
            pelap.recover(models / "ldm-pruned", steps=1, **options)
    found(True)
    with pytest.raises(ConfigError, match="needs a CUDA device, this is cpu"):
        pelap.recover(models / "ldm-pruned", steps=1, optimizer="adamw8bit")


def test_adapters_are_merged_into_an_ordinary_model(models: Path, tmp_path: Path):
    pytest.importorskip("peft")
    out = tmp_path / "out"
    options = ["--train", "lora", "--rank", "4", "--unconditional", "--learning-rate", "1e-2"]
    assert recover(models, "stable_diffusion", out, *options) == 0
    before, after = weights(models / "stable_diffusion-pruned"), weights(out)
    assert list(before) == list(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    attention = {name for name in changed if "attentions" in name and name.endswith("weight")}
    assert attention
    rest = {name.rpartition(".")[0] for name in changed - attention}
    ports = denoiser_ports(PIPELINES["stable_diffusion"]().unet)  # type: ignore[attr-defined]
    assert rest == {ports.input.layer, ports.output.layer}


def test_merged_adapters_say_the_same(models: Path):
    pytest.importorskip("peft")
    network = PIPELINES["stable_diffusion"]().unet  # type: ignore[attr-defined]
    names = list(network.state_dict())
    torch.manual_seed(0)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 9]), torch.randn(2, 5, 8))
    inputs = (*inputs[:2], inputs[2].repeat(1, 1, network.config.cross_attention_dim // 8))
    added = add_adapters(network, 4, 0, ())
    with torch.no_grad():
        for weight in added.values():
            weight.normal_(std=0.1)
        wanted = network(*inputs).sample
        merge_adapters(network)
        given = network(*inputs).sample
    assert torch.allclose(given, wanted, rtol=1e-3, atol=1e-4)
    assert list(network.state_dict()) == names
