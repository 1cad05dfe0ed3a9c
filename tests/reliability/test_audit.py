"""`make audit` says in one line what it lacks."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("pip_audit") is not None, reason="pip-audit is there")
@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="make was not used here")
def test_without_pip_audit_one_line_says_how_to_get_it():
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--assume-old", ".venv/.installed", "audit"],
        cwd=ROOT,
        env=own,  # of a make that runs the tests
        capture_output=True,
        text=True,
    )
    first, *rest = done.stderr.splitlines()
    assert first.startswith("make audit needs pip-audit, which is not installed: ")
    assert all(line.startswith("make: ***") for line in rest)
    assert "Traceback" not in done.stdout + done.stderr
