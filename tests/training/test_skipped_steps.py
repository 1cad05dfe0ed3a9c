"""A step whose loss or gradient is not finite changes nothing; many in a row end the training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.errors import RunError
from pelap.method.losses import LossTerms
from pelap.training.checkpoint import TrainingState
from pelap.training.loop import MOST_SKIPPED, DivergenceError, Loop, Objective
from pelap.training.tracking import Tracker
from pelap.training.trainer import train


class Fitting(Objective):
    """A line fitted to another, with batch normalisation before it, and losses made worse."""

    stage, remedy, steps_per_epoch, max_gradient_norm = "fit", "lower --rate (now 1)", 10, 1.0
    tried, smaller = "8 rows a step", "take fewer"

    def __init__(self, network: nn.Module, spoil: Callable[[int, Tensor], Tensor]):
        self.network, self.spoil = network, spoil
        self.clipped = [list(network.parameters())]

    def learning_rate(self, step: int) -> float:
        return 0.01

    def forward(self, step: int) -> LossTerms:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        inputs = self.spoil(step, inputs)
        return LossTerms((self.network(inputs) - inputs.sum(1, keepdim=True)).square().mean())

    def is_logged(self, done: int) -> bool:
        return True

    def is_saved(self, done: int) -> bool:
        return False


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))


def fit(folder: Path, steps: int, spoil: Callable[[int, Tensor], Tensor]) -> TrainingState:
    fitted, accelerator = network(), Accelerator(cpu=True)
    state = TrainingState(
        fitted, torch.optim.AdamW(fitted.parameters()), EMAModel(fitted.parameters())
    )
    with Tracker(RunFolder(folder), accelerator, "Fitting", 8, range(steps)) as tracker:
        Loop(accelerator, RunFolder(folder), state, tracker, 1).run(
            Fitting(fitted, spoil), range(steps)
        )
    return state


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_skipped_step_changes_nothing_and_is_counted(tmp_path: Path, value: float):
    bad = {3, 4, 7}
    state = fit(tmp_path, 10, lambda step, x: x * value if step in bad else x)
    lines = RunFolder(tmp_path).metrics()
    assert [line["step"] for line in lines if line["split"] == "skipped"] == [4, 5, 8]
    assert "total loss is" in lines[3]["why"]
    assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3, 6, 7, 9, 10]
    values = [*state.trained.state_dict().values()]
    assert all(bool(torch.isfinite(value).all()) for value in values)
    assert state.optimizer.state_dict()["state"][0]["step"] == 7
    assert state.trained[0].num_batches_tracked == 7  # type: ignore[index]


def test_weights_are_those_of_the_other_steps_alone(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = fit(tmp_path / "a", 3, lambda step, x: x)
    other = fit(tmp_path / "b", 4, lambda step, x: x * float("nan") if step == 3 else x)
    for value, again in zip(
        one.trained.state_dict().values(), other.trained.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again)


def test_a_finite_loss_with_a_gradient_that_is_not(tmp_path: Path):
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            return gradients[0] / 0

    fitted, accelerator = network(), Accelerator(cpu=True)
    objective = Fitting(fitted, lambda step, x: x)
    plain = objective.forward
    objective.forward = lambda step: LossTerms(  # type: ignore[method-assign]
        Root.apply(plain(step).total_loss) if step == 1 else plain(step).total_loss  # type: ignore
    )
    state = TrainingState(fitted, torch.optim.AdamW(fitted.parameters()), None)
    with Tracker(RunFolder(tmp_path), accelerator, "Fitting", 8, range(4)) as tracker:
        Loop(accelerator, RunFolder(tmp_path), state, tracker, 1).run(objective, range(4))
    (line,) = RunFolder(tmp_path).metrics("skipped")
    assert line["why"] == "the gradient is not finite"
    assert all(bool(torch.isfinite(weight).all()) for weight in fitted.parameters())


def test_many_in_a_row_stop_with_a_diagnosis(tmp_path: Path):
    with pytest.raises(DivergenceError) as caught:
        fit(tmp_path, 40, lambda step, x: x * float("nan") if step >= 5 else x)
    assert str(caught.value) == (
        f"The loss is not finite in {MOST_SKIPPED} steps in a row, up to step 15 (total loss is "
        "nan): lower --rate (now 1)."
    )
    assert len(RunFolder(tmp_path).metrics("skipped")) == MOST_SKIPPED


def test_a_short_training_that_ends_in_them_is_no_success(tmp_path: Path):
    with pytest.raises(DivergenceError, match="in 3 steps in a row"):
        fit(tmp_path, 4, lambda step, x: x * float("nan") if step else x)


def test_a_run_that_diverges_names_what_to_change(tiny_config: RunConfig, tmp_path: Path):
    optimizer = replace(tiny_config.optimizer, learning_rate=1e30)
    loop = replace(tiny_config.run, epochs=3)
    with pytest.raises(
        DivergenceError, match=r"^The loss is nan in validation after step 8: lower .*learning"
    ):
        train(replace(tiny_config, optimizer=optimizer, run=loop), tmp_path / "run")
    assert RunFolder(tmp_path / "run").metrics("skipped")


def test_too_little_memory_names_the_batch_that_was_tried(tmp_path: Path):
    def take_much(step: int, inputs: Tensor) -> Tensor:
        return torch.empty(1 << 60) if step == 2 else inputs

    with pytest.raises(RunError) as caught:
        fit(tmp_path, 4, take_much)
    assert str(caught.value) == "There is not enough memory for 8 rows a step: take fewer."
