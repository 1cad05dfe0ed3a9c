"""`pelap prune --denoiser-macs` and what `pelap recover` makes of it, from the command line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pelap.analysis.taylor import TimestepLosses
from pelap.cli import main
from pelap.config.run_config import DataConfig, RunConfig
from pelap.measure.encoded_batches import Batches
from pelap.measure.macs import count_denoiser_macs
from pelap.models.loaded import LoadedModel
from pelap.models.model_pictures import load_splits
from pelap.models.opening import open_model
from pelap.pruning.width.judging import PredictionJudge
from pelap.pruning.width.latency import latency_ratio
from pelap.training.recovery.student import find_encode
from pelap.training.recovery.taps import Listener, find_taps
from tiny_pipelines import PIPELINES

DATA = ["--data.source", "photos", "--data.size", "16"]
PICTURES = [*DATA, "--num-pictures", "64"]


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ldm"
    PIPELINES["ldm"]().save_pretrained(folder)
    return folder


def prune(model: Path, output: Path, *options: str) -> int:
    return main(["prune", str(model), "--output", str(output), *options])


def test_width_alone_leaves_the_latents(
    ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune(ldm, tmp_path / "narrow", "--denoiser-macs", "0.75", *PICTURES, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    original, narrow = open_model(ldm), open_model(tmp_path / "narrow")
    assert record["width"]["criterion"] == "taylor"
    assert record["width"]["macs"] == count_denoiser_macs(narrow.denoiser)  # type: ignore[arg-type]
    assert record["width"]["macs_before"] == count_denoiser_macs(original.denoiser)  # type: ignore[arg-type]
    assert narrow.history == [json.loads(json.dumps(record))]
    assert original.history == []
    old, new = original.autoencoder.state_dict(), narrow.autoencoder.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert "75% of the denoiser's MACs" not in (tmp_path / "narrow/README.md").read_text()
    share = record["width"]["macs"] / record["width"]["macs_before"]
    assert f"{share:.0%} of the denoiser's MACs" in (tmp_path / "narrow/README.md").read_text()
    candidates = record["width"]["candidates"]
    errors = [one["error"] for one in candidates]
    assert 0 < errors[0] == min(errors)
    assert candidates[0]["widths"][:2] == list(narrow.denoiser.config["block_out_channels"])  # type: ignore[union-attr]


def test_the_judge_refits_the_last_layer_and_measures_what_is_left(ldm: Path) -> None:
    model = open_model(ldm)
    config = RunConfig(data=DataConfig(source="photos", size=16))
    batches = Batches(load_splits(model, config).train, torch.arange(40), 16, 0)
    judge = PredictionJudge(model, batches)
    assert not torch.equal(judge.fitted[0].noisy, judge.fitted[1].noisy)
    assert len(judge.fitted[0].noisy) == len(judge.measured[0].noisy)
    assert judge(model.denoiser) == 0.0  # type: ignore[arg-type]
    other: Any = copy.deepcopy(model.denoiser)
    shared = other.conv_out.weight
    other.conv_out.weight = torch.nn.Parameter(2 * shared.detach())
    error = judge(other)
    assert 0 < error < 0.2
    torch.testing.assert_close(other.conv_out.weight, shared, atol=0.1, rtol=0.1)
    assert shared.requires_grad == other.conv_out.weight.requires_grad
    with torch.no_grad():  # nothing of the last layer can mend this
        other.conv_in.weight.zero_()
    assert judge(other) > error


def test_both_are_shares_of_the_original(ldm: Path, tmp_path: Path) -> None:
    options = ["--keep", "0,2", "--denoiser-macs", "0.75", "--denoiser-criterion", "diff_pruning"]
    assert prune(ldm, tmp_path / "both", *options, *PICTURES) == 0
    both: Any = open_model(tmp_path / "both")
    assert both.num_channels == both.denoiser.config["in_channels"] == 2
    assert both.history[0]["width"]["criterion"] == "diff_pruning"
    original: Any = open_model(ldm)
    assert both.history[0]["width"]["macs_before"] == count_denoiser_macs(original.denoiser)
    assert torch.equal(find_encode(both, original), torch.eye(4).double()[[0, 2]])


def test_random_channels_follow_the_seed(ldm: Path, tmp_path: Path) -> None:
    kept = []
    few = ["--num-curve", "8", "--num-search", "8", "--learned-steps", "0"]
    for number, seed in enumerate(("1", "1", "2", "3", "4")):
        output = tmp_path / str(number)
        options = ["--keep", "2", "--criterion", "random", "--seed", seed, *few, *PICTURES]
        assert prune(ldm, output, *options) == 0
        assert open_model(output).history[0]["criterion"] == "random"
        kept.append(open_model(output).history[0]["kept"])
    assert kept[0] == kept[1]
    assert any(one != kept[0] for one in kept)


def test_recovery_learns_the_features_of_the_original(ldm: Path, tmp_path: Path) -> None:
    first = ["--denoiser-widths", "8,12", "--denoiser-criterion", "magnitude"]
    assert prune(ldm, tmp_path / "once", *first) == 0
    second = ["--denoiser-widths", "4,12", "--denoiser-criterion", "magnitude", "--keep", "0,1,3"]
    assert prune(tmp_path / "once", tmp_path / "twice", *second) == 0
    options = [
        "--teacher", str(ldm), "--parts", "denoiser", "--feature-weight", "1", "--steps", "40",
        "--learning-rate", "3e-3", "--batch-size", "8", "--num-pictures", "16",
    ]  # fmt: skip
    command = ["recover", str(tmp_path / "twice"), "--output", str(tmp_path / "recovered")]
    assert main([*command, *options, *DATA]) == 0
    lines = [json.loads(x) for x in (tmp_path / "recovered/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["feature_loss"] < 0.8 * lines[0]["feature_loss"]
    assert "reconstruction_loss" not in lines[0]
    record = open_model(tmp_path / "recovered").history[-1]
    assert record["noise_loss"] < record["noise_loss_before"]
    assert record["psnr_db"] == pytest.approx(record["psnr_db_before"])
    before, after = open_model(tmp_path / "twice"), open_model(tmp_path / "recovered")
    old, new = before.autoencoder.state_dict(), after.autoencoder.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_taps_go_through_every_pruning(ldm: Path, tmp_path: Path) -> None:
    original: Any = open_model(ldm)
    weights = original.denoiser.state_dict()
    taps = {}
    for name, source, widths in (("once", ldm, "8,12"), ("twice", tmp_path / "once", "8,4")):
        options = ["--denoiser-widths", widths, "--denoiser-criterion", "magnitude"]
        assert prune(source, tmp_path / name, *options) == 0
        taps[name] = {tap.student: tap for tap in find_taps(open_model(tmp_path / name), original)}
    once, twice = open_model(tmp_path / "once"), open_model(tmp_path / "twice")
    for name, model in (("once", once), ("twice", twice)):
        features = taps[name]["up_blocks.0"].features
        narrow: Any = model.denoiser
        # what the last upsampling convolution's biases say of where its features came from
        expected = weights["up_blocks.0.upsamplers.0.conv.bias"][features]
        assert torch.equal(narrow.up_blocks[0].upsamplers[0].conv.bias, expected)
        assert len(features) == narrow.config["block_out_channels"][1]
    assert find_taps(twice, once)[0].features is not None


def test_a_listener_hears_the_last_call_once() -> None:
    network = nn.Sequential(nn.Identity(), nn.ReLU())
    listener = Listener(network, ["0", "1"])
    network(torch.tensor([-1.0]))
    network(torch.tensor([-2.0]))
    assert [float(one) for one in listener.take()] == [-2.0, 0.0]
    with pytest.raises(AssertionError):
        listener.take()


def test_loud_timesteps_are_those_with_much_of_the_largest_loss() -> None:
    losses = TimestepLosses([(0, 1), (2, 4), (5, 6)], torch.tensor([10.0, 0.4, 0.5]))
    assert losses.at_least(0.05).tolist() == [0, 1, 5, 6]


def test_a_network_takes_as_long_as_itself() -> None:
    denoiser: Any = PIPELINES["ldm"]().unet  # type: ignore[attr-defined]
    assert 0.2 < latency_ratio(denoiser, denoiser, batch_size=2) < 5


def test_a_latency_target_on_this_machine(
    ldm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ratio(network: nn.Module, original: nn.Module) -> float:
        return count_denoiser_macs(network) / count_denoiser_macs(original)

    monkeypatch.setattr("pelap.pruning.narrowing.latency_ratio", ratio)
    options = ["--denoiser-latency", "0.5", "--denoiser-criterion", "magnitude"]
    assert prune(ldm, tmp_path / "quick", *options) == 0
    width = open_model(tmp_path / "quick").history[0]["width"]
    assert width["macs"] <= 0.5 * width["macs_before"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "Say what to remove"),
        (["--denoiser-macs", "1.5"], "--denoiser-macs is 1.5: give a share in (0, 1]"),
        (["--denoiser-macs", "0.01"], "the narrowest has 0"),
        (["--denoiser-criterion", "taylor"], "give --denoiser-macs"),
        (["--denoiser-macs", "0.7", "--denoiser-criterion", "x"], "known are random, magnitude"),
        (["--denoiser-macs", "0.7", "--denoiser-criterion", "taylor"], "give --data.source"),
        (["--denoiser-widths", "8,x"], "--denoiser-widths is '8,x': give numbers with commas"),
        (["--denoiser-widths", "8,12", "--denoiser-macs", "0.7"], "leave the targets out"),
        (["--criterion", "random", *PICTURES], "Give one of --keep and --max-psnr-drop"),
    ],
)
def test_mistakes_are_one_line(
    ldm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert prune(ldm, tmp_path / "no", *options) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_a_model_without_what_is_asked_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ldm: Path
) -> None:
    assert prune(ldm / "vqvae", tmp_path / "no", "--denoiser-macs", "0.5") == 2
    assert "has no denoiser" in capsys.readouterr().err
    PIPELINES["stable_diffusion"]().save_pretrained(tmp_path / "sd")
    options = ["--denoiser-macs", "0.8", "--denoiser-criterion", "taylor", *PICTURES]
    assert prune(tmp_path / "sd", tmp_path / "no", *options) == 2
    assert "takes text, and the pictures have no captions" in capsys.readouterr().err
    command = ["recover", str(tmp_path / "sd"), "--output", str(tmp_path / "no"), "--steps", "1"]
    assert main([*command, "--parts", "denoiser", *DATA]) == 2
    assert "give --prompts FILE" in capsys.readouterr().err
    assert main([*command, "--feature-weight", "1", *DATA]) == 2
    assert "give --teacher" in capsys.readouterr().err


def test_a_model_that_pelap_opened_keeps_its_record_out(ldm: Path, tmp_path: Path) -> None:
    from pelap.commands.prune_model import prune_model
    from pelap.pruning.apply import save_pruned
    from pelap.pruning.width.width_plan import WidthRequest

    model: LoadedModel = open_model(ldm)
    request = WidthRequest(widths=(8, 12), criterion="magnitude")
    pruned, costs = prune_model(model, None, request, None, 8)
    save_pruned(pruned, tmp_path / "narrow", costs)
    assert model.history == []
