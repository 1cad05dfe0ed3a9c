"""What an input-adaptive gate does with its channels, and sampling without an input."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pelap.config.run_config import GateConfig, ObjectiveConfig, RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError
from pelap.data.pictures import InMemoryPictures
from pelap.measure.channel_sets import by_class, count_sets, draw_sets, to_list, to_mask
from pelap.measure.evaluation_record import ChannelSets, StaticSet, read_evaluation
from pelap.measure.run_evaluation import evaluate_run
from pelap.measure.run_sampling import sample_run
from pelap.training.trainer import train


def test_sets_are_counted_over_all_and_in_each_class():
    masks = torch.tensor([[1.0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 0, 1]])
    counted = count_sets(masks)
    assert counted.counts.tolist() == [3, 1]
    assert [to_list(mask) for mask in counted.sets] == [[0, 2], [1, 2]]
    assert counted.frequencies() == [0.75, 0.25]
    pixels = torch.zeros(4, 3, 1, 1, dtype=torch.uint8)
    pictures = InMemoryPictures(torch.tensor([0, 0, 1, 1]), ("cat", "dog", "ship"), pixels)
    classes = by_class(pictures)
    assert list(classes) == ["cat", "dog"]
    assert counted.frequencies(classes["cat"]) == [1.0, 0.0]
    assert counted.frequencies(classes["dog"]) == [0.5, 0.5]


def test_lists_and_masks_are_the_same_sets():
    assert to_list(to_mask([0, 3], 5)) == [0, 3]


def test_sets_are_drawn_as_often_as_they_occurred():
    static = StaticSet([0], 20.0, 21.0, 1.0, 4)
    measured = ChannelSets(2, [[0], [1, 2]], [0.9, 0.1], {}, static)
    drawn = draw_sets(measured, 5000, 3, seed=0)
    assert drawn.shape == (5000, 3)
    assert float(drawn[:, 0].mean()) == pytest.approx(0.9, abs=0.02)
    assert torch.equal(drawn[:, 1], drawn[:, 2])
    assert torch.equal(drawn, draw_sets(measured, 5000, 3, seed=0))


@pytest.fixture(scope="module", params=["hard_concrete", "top_k", "nested"])
def adaptive_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    from pelap.config.presets import tiny

    config = tiny()
    config = replace(
        config,
        data=replace(config.data, num_train=128, num_test=48),
        network=replace(config.network, normalize_latents=True),
        gate=GateConfig(kind=request.param, adaptive=True, budget=2, learning_rate_factor=100.0),
        objective=ObjectiveConfig(
            sparsity_weight=0.0,
            decoder_sees_mask=True,
            encoder_diffusion_weight=0.0,
            open_channels_only=True,
        ),
        run=replace(config.run, epochs=1),
    )
    return train(config, tmp_path_factory.mktemp("runs") / request.param)


def test_an_adaptive_gate_is_described_and_can_be_sampled(adaptive_run: RunFolder, tmp_path: Path):
    with pytest.raises(RunError, match="pelap evaluate"):
        sample_run(adaptive_run, tmp_path / "early.png", num_samples=2, num_steps=2)
    evaluation = evaluate_run(adaptive_run)
    assert evaluation.sampler.channel_sets == "static"
    assert read_evaluation(adaptive_run) == evaluation
    sets = evaluation.channel_sets
    assert sets is not None
    assert sets.num_sets == len(sets.sets) >= 1
    assert sum(sets.frequencies) == pytest.approx(1)
    for frequencies in sets.frequencies_by_class.values():
        assert sum(frequencies) == pytest.approx(1)
    static = sets.static
    assert static.cost_db == pytest.approx(static.adaptive_psnr_db - static.psnr_db)
    assert set(static.channels) <= {0, 1, 2, 3}
    pictures = []
    for how in ("static", "drawn"):
        output = tmp_path / f"{how}.png"
        sample_run(adaptive_run, output, num_samples=4, num_steps=2, channel_sets=how)
        pictures.append(output.read_bytes())
    assert all(pictures)


def test_a_nested_run_is_evaluated_at_any_budget(tmp_path: Path, tiny_config: RunConfig):
    config = replace(
        tiny_config,
        gate=GateConfig(kind="nested", adaptive=False),
        objective=replace(tiny_config.objective, decoder_sees_mask=True, sparsity_weight=0.0),
    )
    folder = train(config, tmp_path / "nested")
    for budget in (1, 3, 4):
        wanted = replace(config, gate=replace(config.gate, budget=budget))
        assert evaluate_run(folder, wanted).active_channels == budget
