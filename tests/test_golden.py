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
ROTATED = ("rotated ", "decoder ")
"""Models whose weights are multiplied with eigenvectors, in which rounding errors grow too."""


def test_every_case_has_its_numbers():
    assert sorted(GOLDEN) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_golden_numbers(name: str, tmp_path: Path):
    is_trained = name in TRAINED
    found, golden = run_case(name, tmp_path), GOLDEN[name]
    assert sorted(found) == sorted(golden)
    for place, value in golden.items():
        if isinstance(value, str):
            assert found[place] == value, place
        else:
            # a sum of weights cancels, a figure does not
            grows = is_trained or (name.startswith("pruning") and place.startswith(ROTATED))
            absolute = 1e-2 if grows and "." not in place else 1e-4
            relative = 1e-3 if is_trained else 1e-5
            if abs(value) < absolute and "." in place:
                absolute = max(1e-3 * abs(value), 1e-7)
            assert found[place] == pytest.approx(value, rel=relative, abs=absolute), place
