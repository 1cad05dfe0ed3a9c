"""The whole analysis on planted autoencoders."""

import json
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_analysis_planted import (
    BASIS,
    SETTINGS,
    LinearAutoencoder,
    ScalingDenoiser,
    make_pictures,
    to_system,
    with_duplicate,
    with_mixed_channels,
    with_useless_channel,
)
from torch import Tensor

from pelap.analysis.analysis_record import Analysis, AnalysisSettings
from pelap.analysis.channel_analysis import analyze
from pelap.analysis.criteria import CRITERIA
from pelap.analysis.curves import counts_to_measure
from pelap.config.run_config import NoiseConfig
from pelap.core.errors import DataError
from pelap.core.records import from_json_dict, to_json_dict
from pelap.data.pictures import InMemoryPictures, Pictures


def rankings(analysis: Analysis) -> dict[str, list[int]]:
    return {criterion.name: criterion.ranking for criterion in analysis.criteria}


def test_a_useless_channel_is_first_by_variance_and_last_for_the_decoder():
    analysis = analyze(to_system(with_useless_channel()), make_pictures(), SETTINGS, "planted")
    ranked = rankings(analysis)
    assert ranked["variance"][0] == ranked["kl"][0] == 3
    for name in ("leave_one_out", "leave_one_out_linear", "decoder_sensitivity", "conditional",
                 "elimination", "learned"):  # fmt: skip
        assert ranked[name][-1] == 3, name
    useless = analysis.channels[3]
    assert useless.leave_one_out_db == pytest.approx(0, abs=1e-5)
    assert useless.expected_loss == pytest.approx(0, abs=1e-10)
    assert useless.energy > 100 * analysis.channels[1].energy
    # Directions are wide in the order of BASIS, so the decoder needs them in that order.
    assert ranked["leave_one_out"] == ranked["conditional"] == [0, 1, 2, 3]
    assert any("variance is worse than the mean of random" in note for note in analysis.notes)


def test_a_duplicate_is_redundant_though_leaving_it_out_costs():
    settings = replace(SETTINGS, learned_steps=0)
    analysis = analyze(to_system(with_duplicate()), make_pictures(), settings, "planted")
    for channel in (analysis.channels[0], analysis.channels[3]):
        assert channel.r2 > 0.999
        assert channel.leave_one_out_db > 0.5
        assert channel.leave_one_out_linear_db == pytest.approx(0, abs=1e-3)
    assert max(channel.r2 for channel in analysis.channels[1:3]) < 0.1
    # Of two equal channels one goes first, by rounding; the other is then the most important.
    for name in ("conditional", "elimination"):
        assert rankings(analysis)[name] in ([0, 1, 2, 3], [3, 1, 2, 0])
    assert set(rankings(analysis)["redundancy"][2:]) == {0, 3}
    three = analysis.criterion("conditional").at(3)
    assert three.psnr_db == pytest.approx(analysis.psnr_db, abs=1e-3)


def test_a_channel_that_the_denoiser_does_not_read_has_no_taylor_score():
    system = to_system(with_mixed_channels(), ScalingDenoiser([1.0, 0.0, 0.5, 0.25]))
    analysis = analyze(system, make_pictures(), replace(SETTINGS, learned_steps=0), "planted")
    scores = torch.tensor([channel.taylor for channel in analysis.channels])
    assert scores.shape == (4, 4)
    assert (scores[1] == 0).all()
    assert (scores[[0, 2, 3]] > 0).all()
    assert rankings(analysis)["taylor"][-1] == 1
    assert analysis.timestep_bands[0][0] == 0
    assert analysis.timestep_bands[-1][1] == NoiseConfig().num_timesteps - 1


def test_what_cannot_be_measured_is_left_out_and_said():
    settings = replace(SETTINGS, learned_steps=0)
    analysis = analyze(to_system(with_mixed_channels()), make_pictures(), settings, "planted")
    assert set(CRITERIA) - set(rankings(analysis)) == {"taylor", "learned"}
    assert sum("taylor" in note or "learned" in note for note in analysis.notes) == 2
    assert all(one.taylor is None and one.score is None for one in analysis.channels)
    assert analysis.timestep_bands == []


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze_planted()


def analyze_planted() -> Analysis:
    system = to_system(with_mixed_channels(), ScalingDenoiser([1.0, 0.3, 0.5, 0.25]))
    return analyze(system, make_pictures(), SETTINGS, "planted")


def test_curves_end_at_all_channels_and_agree_there(analysis: Analysis):
    assert set(rankings(analysis)) == set(CRITERIA)
    for criterion in analysis.criteria:
        assert sorted(criterion.ranking) == [0, 1, 2, 3]
        assert [point.num_kept for point in criterion.curve] == [1, 2, 3, 4]
        assert criterion.curve[-1].psnr_db == analysis.psnr_db
        assert criterion.at(2).channels == criterion.ranking[:2]
    for rotation in analysis.rotations:
        assert rotation.psnr_db[-1] == pytest.approx(analysis.psnr_db, abs=1e-3)
    best = [max(one.at(k).psnr_db for one in analysis.criteria) for k in (1, 2, 3)]
    decoder = next(one for one in analysis.rotations if one.kind == "decoder").psnr_db
    assert all(rotated > plain - 0.3 for rotated, plain in zip(decoder, best, strict=False))
    tau = analysis.agreement.tau
    assert all(tau[i][i] == pytest.approx(1) for i in range(len(tau)))


def test_pictures_are_held_apart_for_the_curves(analysis: Analysis):
    assert (analysis.num_pictures, analysis.num_curve, analysis.num_search) == (64, 32, 32)
    settings = replace(SETTINGS, num_pictures=96, learned_steps=0)
    whole = analyze(to_system(with_mixed_channels()), make_pictures(), settings, "planted")
    assert "no others were left" in whole.notes[0]


def test_classes_are_told_apart(analysis: Analysis):
    per_class = analysis.channels[0].leave_one_out_db_by_class
    assert per_class is not None
    assert len(per_class) == len(analysis.class_names) == 2
    assert None not in per_class


def test_the_result_survives_json(analysis: Analysis):
    content = json.loads(json.dumps(to_json_dict(analysis), allow_nan=False))
    assert from_json_dict(Analysis, content, "here") == analysis
    del content["format_version"]
    assert from_json_dict(Analysis, content, "here") == analysis
    with pytest.raises(DataError, match="here has the unknown field 'colours'"):
        from_json_dict(Analysis, content | {"colours": {}}, "here")


def test_the_same_seed_gives_the_same_result(analysis: Analysis):
    assert analyze_planted() == analysis


def test_a_single_channel_can_be_analysed():
    model = LinearAutoencoder(BASIS[:, :1].T.clone(), BASIS[:, :1].clone())
    analysis = analyze(to_system(model), make_pictures(8), SETTINGS, "planted")
    assert all(criterion.ranking == [0] for criterion in analysis.criteria)
    json.dumps(to_json_dict(analysis), allow_nan=False)


@dataclass(frozen=True, eq=False)
class CountedPictures(Pictures):
    """Pictures that note how many of them are fetched at a time."""

    source: InMemoryPictures
    sizes: list[int] = field(default_factory=list)

    def fetch(self, indices: Tensor) -> Tensor:
        self.sizes.append(len(indices))
        return self.source.fetch(indices)


def test_never_more_than_a_batch_is_fetched():
    source = make_pictures()
    pictures = CountedPictures(source.labels, source.class_names, source)
    analyze(to_system(with_mixed_channels()), pictures, SETTINGS, "planted")
    assert max(pictures.sizes) == SETTINGS.batch_size


@dataclass(frozen=True)
class DrawnPictures(Pictures):
    """Random pictures that exist while they are fetched only."""

    labels: Tensor
    class_names: tuple[str, ...] = ("all",)

    def fetch(self, indices: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(int(indices[0]))
        return torch.randint(0, 256, (len(indices), 3, 32, 32), generator=source).to(torch.uint8)


def peak_memory(num_pictures: int) -> int:
    """Largest resident memory of this process, KiB, after the analysis of so many pictures."""
    pictures = DrawnPictures(torch.zeros(num_pictures, dtype=torch.long))
    settings = replace(SETTINGS, num_pictures=num_pictures, batch_size=100, num_probes=1)
    model = LinearAutoencoder(BASIS[:, :2].T.clone(), BASIS[:, :2].clone())
    analyze(to_system(model), pictures, settings, "planted")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_ten_times_as_many_pictures_need_no_more_memory():
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, max_tasks_per_child=1) as pool:
        few, many = pool.map(peak_memory, (1000, 10_000))
    assert many < 1.1 * few


def test_weights_can_be_trained_again_afterwards(analysis: Analysis):
    system = to_system(with_mixed_channels())
    before = [weight.clone() for weight in system.parameters()]
    analyze(system, make_pictures(8), SETTINGS, "planted")
    assert all(weight.requires_grad and weight.grad is None for weight in system.parameters())
    assert all(map(torch.equal, before, system.parameters()))


def test_long_curves_are_thinned_out():
    assert counts_to_measure(5) == [1, 2, 3, 4, 5]
    assert counts_to_measure(16) == list(range(1, 17))
    for num_channels in (17, 32, 128):
        counts = counts_to_measure(num_channels)
        assert len(counts) == 16
        assert {1, num_channels // 4, num_channels // 2, num_channels} <= set(counts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"fill": "noise"}, "fill is 'noise'")],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        AnalysisSettings(**settings)


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match="no pictures"):
        analyze(to_system(with_mixed_channels()), make_pictures(0), SETTINGS, "planted")


def analyze_in_process(rank: int, folder: Path) -> None:
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        content = to_json_dict(analyze_planted())
    finally:
        torch.distributed.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(content))


# The gate's mean over all processes (pelap.core.processes) needs a gradient through the sum.
@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional.all_reduce:FutureWarning")
def test_two_processes_find_what_one_finds(analysis: Analysis, tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=analyze_in_process, args=(1, tmp_path), daemon=True)
    other.start()
    analyze_in_process(0, tmp_path)
    other.join(timeout=60)
    assert other.exitcode == 0
    one = json.loads(json.dumps(to_json_dict(analysis)))
    for rank in range(2):
        two = json.loads((tmp_path / f"{rank}.json").read_text())
        assert_close(two | {"cost": one["cost"]}, one)
        counted = {stage["stage"]: stage for stage in two["cost"]["stages"]}
        for stage in one["cost"]["stages"]:  # each process encodes the first batch, and learns
            if stage["stage"] not in ("moments", "learned predictor"):
                assert counted[stage["stage"]] == stage


def assert_close(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        assert found == expected
