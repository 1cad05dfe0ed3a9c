"""Verdicts on planted evidence."""

import math

import pytest

from pelap.core.errors import RunError
from pelap.measure.collapse import CollapseEvidence, judge


def test_closed_masks_are_collapsed():
    verdict = judge(CollapseEvidence([0.004, 0.003], [0.004, 0.003], 0.0236, 0.0235))
    assert verdict.verdict == "collapsed"
    assert "0.0040" in verdict.reasons[0]


def test_open_masks_over_small_latents_are_shrunken():
    verdict = judge(CollapseEvidence([1.0] * 4, [0.06] * 4, 0.03, 0.0234))
    assert verdict.verdict == "shrunken"
    assert "0.0600" in verdict.reasons[0]


def test_unit_latents_are_healthy():
    assert judge(CollapseEvidence([1.0] * 4, [1.0] * 4, 0.25, 0.3)).verdict == "healthy"


def test_one_closed_channel_is_healthy_and_named():
    verdict = judge(CollapseEvidence([0.9, 0.01, 0.9, 0.9], [0.9, 0.01, 0.9, 0.9], 0.25, 0.3))
    assert verdict.verdict == "healthy"
    assert any(reason.startswith("channel 1 is closed") for reason in verdict.reasons)


def test_open_channels_that_are_scaled_away_are_named():
    verdict = judge(CollapseEvidence([1.0] * 4, [1.0, 0.01, 0.9, 0.01]))
    assert verdict.verdict == "healthy"
    named = [reason for reason in verdict.reasons if "scaled away" in reason]
    assert [reason.split()[1] for reason in named] == ["1", "3"]


def test_latents_that_noise_never_drowns_are_not_healthy():
    verdict = judge(CollapseEvidence([1.0] * 2, [300.0] * 2, least_snr_db=9.5))
    assert verdict.verdict == "undertrained"
    assert "above 9.5 dB" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("evidence", "name"),
    [
        (CollapseEvidence([math.nan], [1.0]), "masks"),
        (CollapseEvidence([1.0], [math.inf]), "standard deviation"),
        (CollapseEvidence([1.0], [1.0], math.nan, 0.1), "denoiser's loss"),
        (CollapseEvidence([1.0], [1.0], 0.1, 0.1, math.nan), "recovered latent"),
    ],
)
def test_figures_that_are_not_finite_are_refused_by_name(evidence: CollapseEvidence, name: str):
    with pytest.raises(RunError, match=name):
        judge(evidence)
