"""A watch on planted latents and masks, whose figures have closed forms."""

import json
import subprocess
import sys
import warnings

import pytest
import torch

from pelap.core.errors import ConfigError, RunError
from pelap.measure.collapse_watch import CollapseWarning, CollapseWatch

C = 4
ALPHAS = torch.linspace(0.999, 0.001, 50)


def latents(std: float, *shape: int) -> torch.Tensor:
    """Values ±std about a mean of 3: their deviation is exact."""
    signs = torch.ones(2, C, *(shape or (4, 4)))
    signs[1] = -1
    return std * signs + 3


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (7,)])
def test_healthy_latents_are_said_to_be_healthy(shape: tuple[int, ...]):
    watch = CollapseWatch(ALPHAS, every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            watch.update(latents(1.0, *shape), torch.ones(2, C), 0.25)
    record = watch.verdict()
    assert record.collapse.verdict == "healthy"
    assert record.num_updates == 4
    assert record.mask_mean == [1] * C
    assert record.masked_latent_std == pytest.approx([1.0] * C, abs=1e-5)
    assert record.diffusion_loss == pytest.approx(0.25)


@pytest.mark.parametrize("std", [1.0, 0.5, 0.1])
def test_the_floors_are_closed_forms(std: float):
    watch = CollapseWatch(ALPHAS)
    watch.update(latents(std))
    record = watch.verdict()
    power = ALPHAS * std**2
    assert record.gaussian_diffusion_loss == pytest.approx(
        float((power / (power + 1 - ALPHAS)).mean()), rel=1e-3
    )
    assert record.unit_diffusion_loss == pytest.approx(float(ALPHAS.mean()), rel=1e-5)
    assert record.diffusion_loss is None


def test_the_floor_is_that_of_the_open_channels():
    watch = CollapseWatch(ALPHAS)
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    watch.update((latents(1.0) - 3) * mask[:, None, None], mask)
    assert watch.verdict().gaussian_diffusion_loss == pytest.approx(float(ALPHAS.mean()), rel=1e-4)


def test_without_a_forward_process_there_is_no_floor():
    watch = CollapseWatch()
    watch.update(latents(1.0))
    assert watch.verdict().gaussian_diffusion_loss is None


def test_closed_masks_warn_once_in_one_line():
    watch = CollapseWatch(ALPHAS, every=2)
    watch.update(latents(1.0), torch.full((2, C), 0.01), 0.02)
    with pytest.warns(CollapseWarning) as caught:
        watch.update(latents(1.0), torch.full((2, C), 0.01), 0.02)
    assert len(caught) == 1
    line = str(caught[0].message)
    assert "\n" not in line
    assert line.startswith("after 2 steps the model is collapsed: all 4 masks are closed")
    assert "the noise loss is 0.0200; latents of this size allow" in line
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            watch.update(latents(1.0), torch.zeros(C))
    assert watch.verdict().collapse.verdict == "collapsed"


def test_latents_that_shrink_while_training_warn():
    watch = CollapseWatch(every=3)

    def shrink() -> None:
        for std in (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.01, 0.01, 0.01):
            watch.update(latents(std) - 3)

    with pytest.warns(CollapseWarning, match="shrunken: masks are open but the latents are small"):
        shrink()
    assert watch.verdict().collapse.verdict == "shrunken"


def test_the_first_steps_count_alike_and_later_ones_replace_them():
    watch = CollapseWatch(every=4)
    for mask in (1.0, 0.5, 0.0):
        watch.update(latents(1.0), torch.full((C,), mask))
    assert watch.verdict().mask_mean == pytest.approx([0.5] * C)
    for _ in range(4):
        watch.update(latents(1.0), torch.ones(C))
    assert watch.verdict().mask_mean == pytest.approx([1 - 0.375 * 0.75**3] * C)


def test_broken_figures_are_said_once_and_do_not_end_the_training():
    watch = CollapseWatch(every=1)
    with pytest.warns(CollapseWarning, match="broken"):
        watch.update(torch.full((2, C, 4), torch.nan))
    watch.update(torch.full((2, C, 4), torch.nan))
    with pytest.raises(RunError, match="broken"):
        watch.verdict()


def test_no_gradient_is_kept():
    watch = CollapseWatch()
    values = latents(1.0).requires_grad_()
    watch.update(values, values[:, :, 0, 0].sigmoid(), values.mean())
    assert watch.verdict().diffusion_loss == pytest.approx(3)


def test_a_record_is_plain_values():
    watch = CollapseWatch(ALPHAS)
    watch.update(latents(1.0), None, torch.tensor(0.3))
    assert json.loads(json.dumps(watch.verdict().as_dict()))["collapse"]["verdict"] == "healthy"


def test_a_record_needs_no_torch():
    code = "import sys, pelap.measure.collapse_watch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_watch_that_has_seen_nothing_says_so():
    with pytest.raises(ValueError, match="seen nothing"):
        CollapseWatch().verdict()
    with pytest.raises(ConfigError, match="every is 0"):
        CollapseWatch(every=0)
