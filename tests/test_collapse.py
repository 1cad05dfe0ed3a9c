"""Verdicts on planted evidence."""

from pelap.diagnostics import CollapseEvidence, judge


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
