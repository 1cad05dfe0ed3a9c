"""`pelap recover`: what it wins back, what it leaves alone, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LDMPipeline
from safetensors.torch import load_file
from torch import Tensor

from pelap.cli import main
from pelap.core.errors import ConfigError
from pelap.models.opening import open_model
from pelap.training.recovery import cached_pictures
from pelap.training.recovery.student import find_encode
from pelap.training.recovery.student_training import RecoveryObjective
from tiny_pipelines import PIPELINES
from two_processes import run_in_two_processes

DATA = ["--data.source", "photos", "--data.size", "16"]
SHORT = ["--batch-size", "8", "--num-pictures", "16"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
ON_CACHED_LATENTS = ["--parts", "denoiser", "--data.num-train", "16"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pipelines, and the same with channels 0 and 2 only."""
    root = tmp_path_factory.mktemp("models")
    for name in ("ldm", "stable_diffusion"):
        PIPELINES[name]().save_pretrained(root / name)
        command = ["prune", str(root / name), "--keep", "0,2"]
        assert main([*command, "--output", str(root / f"{name}-pruned")]) == 0
    return root


def recover(model: Path, output: Path, *options: str) -> int:
    return main(["recover", str(model), "--output", str(output), *options, *SHORT, *DATA])


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def tensors(folder: Path, part: str) -> dict[str, Tensor]:
    return load_file(folder / part / WEIGHTS)


def changed(before: Path, after: Path, part: str) -> set[str]:
    old, new = tensors(before, part), tensors(after, part)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_quality_is_won_back_and_stock_diffusers_loads_it(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    before, output = listing(models), tmp_path / "recovered"
    options = ["--steps", "30", "--teacher", str(models / "ldm"), "--learning-rate", "1e-3"]
    assert recover(models / "ldm-pruned", output, *options, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert before == listing(models)
    assert record["psnr_db"] > record["psnr_db_before"]
    assert record["noise_loss"] < record["noise_loss_before"]
    assert (record["teacher"], record["num_pictures"]) == ("ldm", 16)
    history = open_model(output).history
    assert history[-1] == record
    assert "pruned" in history[0]
    pipeline: Any = LDMPipeline.from_pretrained(output)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline(num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    card = (output / "README.md").read_text()
    assert f"{record['psnr_db']:.2f}" in card
    assert "Kept channels: 0, 2" in card
    assert str(tmp_path) not in card
    assert [line["step"] for line in metrics(output)] == [1, 10, 20, 30]
    assert [path.name for path in tmp_path.iterdir()] == ["recovered"]
    assert all(name.startswith(("decoder.", "post_quant_conv."))
               for name in changed(models / "ldm-pruned", output, "vqvae"))  # fmt: skip
    assert recover(models / "ldm-pruned", output, *options) == 2  # never overwrites
    assert main(["prune", str(output), "--keep", "0,", "--output", str(tmp_path / "one")]) == 0
    assert "recovered for 30 steps" in (tmp_path / "one" / "README.md").read_text()


@pytest.mark.parametrize("more", [[], ON_CACHED_LATENTS], ids=["pictures", "cached latents"])
def test_resumed_is_uninterrupted_bit_for_bit(
    more: list[str],
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    pruned, output = models / "ldm-pruned", tmp_path / "stopped"
    options = ["--steps", "9", "--teacher", str(models / "ldm"), "--checkpoint-every", "3", *more]
    assert recover(pruned, tmp_path / "whole", *options) == 0
    step, forward = 5, RecoveryObjective.forward

    def stop(objective: RecoveryObjective, number: int, part: int) -> Any:
        if number == step:
            raise KeyboardInterrupt
        return forward(objective, number, part)

    with monkeypatch.context() as patch:
        patch.setattr(RecoveryObjective, "forward", stop)
        assert recover(pruned, output, *options) == 130
    told = capsys.readouterr().err.splitlines()[-1]  # behind what says how far it is
    assert f"`pelap recover {pruned} --output {output} --steps 9" in told
    assert "goes on from step 3." in told
    assert not output.exists()
    left = tmp_path / ".stopped.recovery"
    assert [path.name for path in (left / "checkpoints").iterdir()] == ["step_3"]
    assert len(list(left.glob("latents/*.npy"))) == (1 if more else 0)
    assert recover(pruned, output, *options, "--seed", "1") == 2
    assert "another seed" in capsys.readouterr().err
    assert recover(pruned, output, *options) == 0
    whole = tmp_path / "whole"
    files, expected = listing(output), listing(whole)
    assert files.pop("metrics.jsonl").count(b"\n") == expected.pop("metrics.jsonl").count(b"\n")
    assert files == expected
    assert without_speed(metrics(output)) == without_speed(metrics(whole))
    assert not (tmp_path / ".stopped.recovery").exists()


def test_cached_latents_teach_what_pictures_teach(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pruned = models / "ldm-pruned"
    options = ["--steps", "4", "--teacher", str(models / "ldm"), *ON_CACHED_LATENTS]
    assert recover(pruned, tmp_path / "cached", *options) == 0
    with monkeypatch.context() as patch:  # no room on the disk
        patch.setattr(cached_pictures, "MOST_OF_DISK", 0.0)
        assert recover(pruned, tmp_path / "fresh", *options) == 0
    cached, fresh = (tensors(tmp_path / name, "unet") for name in ("cached", "fresh"))
    before = tensors(pruned, "unet")
    apart = sum(float((cached[name] - fresh[name]).square().sum()) for name in fresh)
    moved = sum(float((before[name] - fresh[name]).square().sum()) for name in fresh)
    assert 0 < apart < 1e-2 * moved  # they are kept in float16
    kept = {path.name for path in (tmp_path / "cached").iterdir()}
    assert kept == {path.name for path in (tmp_path / "fresh").iterdir()}


def test_parts_pruned_trains_the_layers_at_the_latents_only(models: Path, tmp_path: Path):
    pruned, output = models / "ldm-pruned", tmp_path / "recovered"
    assert recover(pruned, output, "--steps", "3", "--parts", "pruned") == 0
    assert changed(pruned, output, "vqvae") == {
        f"{layer}.{part}"
        for layer in ("decoder.conv_in", "post_quant_conv")
        for part in ("weight", "bias")
    }
    assert changed(pruned, output, "unet") == {
        f"{layer}.{part}" for layer in ("conv_in", "conv_out") for part in ("weight", "bias")
    }


def test_a_decoder_of_which_nothing_was_taken_stays(models: Path, tmp_path: Path):
    whole, narrow, output = models / "ldm", tmp_path / "narrow", tmp_path / "recovered"
    assert main(["prune", str(whole), "--denoiser-macs", "0.7", "--output", str(narrow)]) == 0
    options = ["--steps", "2", "--teacher", str(whole)]
    assert recover(narrow, output, *options) == 0
    assert changed(narrow, output, "unet")
    assert not changed(narrow, output, "vqvae")
    assert open_model(output).history[-1]["parts"] == "denoiser"
    assert recover(narrow, tmp_path / "all", *options, "--parts", "all") == 0
    assert changed(narrow, tmp_path / "all", "vqvae")
    both, pruned = tmp_path / "both", models / "ldm-pruned"
    assert main(["prune", str(pruned), "--denoiser-macs", "0.7", "--output", str(both)]) == 0
    parts = {
        name: open_model(tmp_path / name).history[-1]["parts"]
        for name, teacher in (("since", pruned), ("before", whole))
        if recover(both, tmp_path / name, "--steps", "2", "--teacher", str(teacher)) == 0
    }
    assert parts == {"since": "denoiser", "before": "all"}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_full_rotation_already_answers_as_its_teacher(
    models: Path, tmp_path: Path, prediction: Any
):
    original, turned = tmp_path / "original", tmp_path / "turned"
    pipeline = LDMPipeline.from_pretrained(models / "ldm")
    pipeline.scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction)
    pipeline.save_pretrained(original)
    command = ["prune", str(original), "--keep", "4", "--rotate", "pca", "--output", str(turned)]
    few = ["--num-pictures", "16", "--num-curve", "8", "--num-search", "4", "--learned-steps", "0"]
    assert main([*command, *few, *DATA]) == 0
    assert recover(turned, tmp_path / "a", "--steps", "1", "--teacher", str(original)) == 0
    assert recover(original, tmp_path / "b", "--steps", "1") == 0
    (taught,), (alone,) = metrics(tmp_path / "a"), metrics(tmp_path / "b")
    assert taught["teacher_noise_loss"] < 1e-9
    assert taught["noise_loss"] == pytest.approx(alone["noise_loss"], rel=1e-4)
    assert "teacher_noise_loss" not in alone


def test_a_rotated_model_is_taught_in_its_own_basis(models: Path, tmp_path: Path):
    turned, output = tmp_path / "turned", tmp_path / "recovered"
    command = ["prune", str(models / "ldm"), "--keep", "2", "--rotate", "decoder"]
    few = ["--num-pictures", "16", "--num-curve", "8", "--num-search", "4", "--learned-steps", "0"]
    assert main([*command, "--output", str(turned), *few, *DATA]) == 0
    assert recover(turned, output, "--steps", "2", "--teacher", str(models / "ldm")) == 0
    assert open_model(output).num_channels == 2


def test_a_conditional_denoiser_is_left_as_it_is(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pruned, output = models / "stable_diffusion-pruned", tmp_path / "recovered"
    options = ["--steps", "4", "--teacher", str(models / "stable_diffusion")]
    assert recover(pruned, output, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "takes text, and the pictures have no captions" in error
    assert not output.exists()
    assert recover(pruned, output, "--parts", "decoder", *options) == 0
    error = capsys.readouterr().err.strip()
    assert "note: the denoiser is left as it is: UNet2DConditionModel" in error
    assert not changed(pruned, output, "unet")
    assert changed(pruned, output, "vae")
    record = open_model(output).history[-1]
    assert record["noise_loss"] is None
    assert "denoiser is as it was" in (output / "README.md").read_text()
    DiffusionPipeline.from_pretrained(output)


def test_an_autoencoder_alone_and_half_precision(models: Path, tmp_path: Path):
    pipeline = LDMPipeline.from_pretrained(models / "ldm-pruned").to(torch.float16)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    options = ["--steps", "3", "--learning-rate", "1e-2"]
    assert recover(tmp_path / "half", tmp_path / "recovered", *options) == 0
    assert recover(tmp_path / "half" / "vqvae", tmp_path / "alone", *options) == 0
    name = "diffusion_pytorch_model.fp16.safetensors"
    before = load_file(tmp_path / "half" / "vqvae" / name)
    for folder in ("recovered/vqvae", "recovered/unet", "alone"):
        after = load_file(tmp_path / folder / name)
        assert {tensor.dtype for tensor in after.values()} == {torch.float16}
        for key in [key for key in before if key.startswith("encoder.")]:
            assert key not in after or torch.equal(before[key], after[key])
    LDMPipeline.from_pretrained(tmp_path / "recovered", variant="fp16")


def test_a_run_of_ours_with_the_papers_networks(tmp_path: Path):
    run, pruned, output = tmp_path / "run", tmp_path / "pruned", tmp_path / "recovered"
    assert main(["train", "tiny", "--output", str(run), "--run.max-steps", "2"]) == 0
    few = ["--fill", "zero", "--num-pictures", "8", "--num-curve", "8", "--learned-steps", "0"]
    assert main(["prune", str(run), "--keep", "0,1,2", "--output", str(pruned), *few]) == 0
    options = ["--steps", "2", "--parts", "pruned", "--teacher", str(run)]
    assert recover(pruned, output, *options) == 0
    assert changed(pruned, output, "autoencoder") == {"decoder.0.weight", "decoder.0.bias"}
    layers = {name.rpartition(".")[0] for name in changed(pruned, output, "denoiser")}
    assert layers == {"down.norm_in", "down.conv_in", "out"}


def other_weights(models: Path, folder: Path) -> Path:
    pipeline = LDMPipeline.from_pretrained(models / "ldm")
    with torch.no_grad():
        for weight in pipeline.vqvae.encoder.parameters():
            weight.neg_()
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "teacher", "options", "match"),
    [
        ("ldm-pruned", None, ["--steps", "0"], "--steps is 0"),
        ("ldm-pruned", None, ["--learning-rate", "0"], "--learning-rate is 0"),
        ("ldm-pruned", None, ["--batch-size", "100000"], "--batch-size is 100000"),
        ("ldm-pruned", None, ["--data.size", "15"], "--data.size"),
        ("ldm-pruned", None, ["--data.batch-size", "4"], "give --batch-size"),
        ("ldm-pruned", None, ["--optimizer.ema-decay", "0.9"], "has no effect"),
        ("ldm-pruned", None, ["--learning-rate", "1e38"], "lower --learning-rate"),
        ("ldm", "ldm-pruned", [], "holds no record of a pruning"),
        ("ldm-pruned", "ldm-pruned", [], "was not pruned from --teacher ldm-pruned"),
        ("ldm-pruned", "other", [], "latents of the same picture differ"),
        ("ldm-pruned", "stable_diffusion_3", [], "has 8 latent channels, but ldm-pruned"),
        ("ldm-pruned", "nowhere", [], "No model at"),
    ],
)
def test_mistakes_are_said_in_one_line_and_nothing_is_written(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    teacher: str | None,
    options: list[str],
    match: str,
):
    given = [] if teacher is None else ["--teacher", str(tmp_path / teacher)]
    if teacher == "other":
        other_weights(models, tmp_path / "other")
    elif teacher in PIPELINES:
        PIPELINES[teacher]().save_pretrained(tmp_path / teacher)
    elif teacher != "nowhere":
        given = given and ["--teacher", str(models / str(teacher))]
    before = listing(tmp_path)
    capsys.readouterr()
    command = ["recover", str(models / model), "--output", str(tmp_path / "out"), "--steps", "9"]
    assert main([*command, *given, *SHORT, *DATA, *options]) == 2
    error = capsys.readouterr().err
    assert match in error
    lines = [line for line in error.strip().splitlines() if " skipped: " not in line]
    assert len(lines) == 1
    assert before == listing(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_several_prunings_are_multiplied(models: Path):
    twice = open_model(models / "ldm-pruned")
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64)).Q
    second = {"channels_before": 2, "rotation": "pca", "kept": [0], "encode": turn[:1].tolist()}
    history = [*twice.history, {"recovered": "2026-01-01", "steps": 3}, second]
    twice.autoencoder.register_to_config(_pelap=history)  # type: ignore[operator]
    encode = find_encode(twice, open_model(models / "ldm"))
    expected = turn[:1] @ torch.eye(4, dtype=torch.float64)[[0, 2]]
    torch.testing.assert_close(encode, expected)
    once = find_encode(twice, open_model(models / "ldm-pruned"))
    torch.testing.assert_close(once, turn[:1])
    del second["encode"]
    with pytest.raises(ConfigError, match="does not say how"):
        find_encode(twice, open_model(models / "ldm"))


@pytest.mark.slow
def test_two_processes_train_like_one(models: Path, tmp_path: Path):
    # rounding grows with the rate
    chosen = ["--steps", "4", "--teacher", str(models / "ldm"), "--learning-rate", "1e-4"]
    options = [*chosen, *SHORT, *DATA]
    output = ["--output", tmp_path / "two"]
    run_in_two_processes("recover", models / "ldm-pruned", *options, *output)
    assert recover(models / "ldm-pruned", tmp_path / "one", *chosen) == 0
    for part in ("vqvae", "unet"):
        two, one = tensors(tmp_path / "two", part), tensors(tmp_path / "one", part)
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4)
    assert open_model(tmp_path / "two").history[-1]["psnr_db"] == pytest.approx(
        open_model(tmp_path / "one").history[-1]["psnr_db"], abs=1e-3
    )


def test_what_a_kill_after_the_writing_left_goes_with_the_next_call(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small, output = models / "ldm-pruned", tmp_path / "out"
    folder = tmp_path / ".out.recovery"
    with monkeypatch.context() as patch:
        patch.setattr("pelap.commands.recover_model.remove_folder", lambda path: None)
        assert recover(small, output, "--steps", "2", "--checkpoint-every", "1") == 0
    assert list(folder.glob("checkpoints/step_*"))
    half_removed = tmp_path / "..out.recovery.old"
    half_removed.mkdir()
    assert recover(small, output, "--steps", "2") == 2  # there is one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_checkpoints_newer_than_the_model_are_kept(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small, output = models / "ldm-pruned", tmp_path / "out"
    assert recover(small, output, "--steps", "1") == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pelap.commands.recover_model.round_weights", stop)
        assert recover(small, output, "--steps", "2", "--overwrite") == 130
    assert recover(small, output, "--steps", "2") == 2
    assert list(tmp_path.glob(".out.recovery/checkpoints/step_*"))
    assert recover(small, output, "--steps", "2", "--overwrite") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
