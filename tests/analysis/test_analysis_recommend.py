"""Which channels an analysis says to keep."""

import pytest

from pelap.analysis.analysis_record import (
    Agreement,
    Analysis,
    CriterionResult,
    CurvePoint,
    MomentsResult,
    RandomCurve,
)
from pelap.analysis.recommendation import recommend


def criterion(name: str, ranking: list[int], psnr_db: list[float]) -> CriterionResult:
    curve = [CurvePoint(k, ranking[:k], value) for k, value in enumerate(psnr_db, start=1)]
    return CriterionResult(name, "", ranking, None, curve)


@pytest.fixture
def analysis() -> Analysis:
    return Analysis(
        name="written", num_channels=3, num_pictures=10, num_search=2, num_curve=5, psnr_db=30.0,
        pass_psnr_db=30.0, fill="linear", timestep_bands=[], channels=[],
        moments=MomentsResult([], [], []), eigenvalues=[], decoder_metric=[],
        criteria=[criterion("first", [2, 1, 0], [20.0, 25.0, 30.0]),
                  criterion("second", [2, 0, 1], [19.0, 29.0, 30.0])],
        random=RandomCurve([1, 2, 3], [[15.0], [22.0], [30.0]], [15.0, 22.0, 30.0]),
        rotations=[], agreement=Agreement([], []), class_names=[], seed=0, notes=[],
    )  # fmt: skip


def test_the_best_criterion_at_that_number_is_taken(analysis: Analysis):
    found = recommend(analysis, keep=2)
    assert (found.criterion, found.channels, found.psnr_db) == ("second", [0, 2], 29.0)
    assert (found.drop_db, found.random_drop_db) == (1.0, 8.0)
    assert "1.00 dB" in found.reason
    assert recommend(analysis, keep=1).criterion == "first"
    assert recommend(analysis, keep=2, criterion="first").channels == [1, 2]


def test_as_few_as_the_drop_allows(analysis: Analysis):
    assert recommend(analysis, max_psnr_drop=0.0).num_kept == 3
    assert recommend(analysis, max_psnr_drop=1.0).num_kept == 2
    assert recommend(analysis, max_psnr_drop=1.0, criterion="first").num_kept == 3
    assert recommend(analysis, max_psnr_drop=10.0).channels == [2]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "either keep or max_psnr_drop"),
        ({"keep": 1, "max_psnr_drop": 1.0}, "either keep or max_psnr_drop"),
        ({"keep": 4}, "keep is 4: it must be from 1 to 3"),
        ({"max_psnr_drop": -1.0}, "must be at least 0"),
        ({"keep": 1, "criterion": "third"}, "Unknown criterion 'third': known are first, second"),
    ],
)
def test_wishes_that_cannot_be_met(analysis: Analysis, wish: dict, message: str):
    with pytest.raises(ValueError, match=message):
        recommend(analysis, **wish)
