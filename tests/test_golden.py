"""The numbers of fixed tiny cases: a refactoring changes none of them.

A number that changes for a reason is written anew by golden_cases.py, and named in the CHANGELOG.
"""

import json
from pathlib import Path

import pytest

from golden_cases import CASES, run_case

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
TRAINED = ("training", "measuring", "analysing", "recovering")
"""Cases whose rounding errors grow step by step, so that another processor shows in them."""


def test_every_case_has_its_numbers():
    assert sorted(GOLDEN) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_golden_numbers(name: str, tmp_path: Path):
    tolerance = 1e-3 if name in TRAINED else 1e-5
    found, golden = run_case(name, tmp_path), GOLDEN[name]
    assert sorted(found) == sorted(golden)
    for place, value in golden.items():
        if isinstance(value, str):
            assert found[place] == value, place
        else:
            assert found[place] == pytest.approx(value, rel=tolerance, abs=10 * tolerance), place
