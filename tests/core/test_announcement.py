"""Something is said before long, at a terminal or not."""

import time

import pytest

from pelap.core import announcement, progress
from pelap.core.announcement import announced
from pelap.core.progress import ProgressBar


def test_what_takes_long_is_announced_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(announcement, "SECONDS_BEFORE_FIRST_LINE", 0.05)
    with announced("Opening the model"):
        time.sleep(0.5)
    assert capsys.readouterr().err == "Opening the model\n"
    with announced("Nothing"):
        pass
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_a_bar_without_a_terminal_says_that_it_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(progress, "SECONDS_BEFORE_FIRST_LINE", 0.05)
    with ProgressBar("Measuring", 7) as bar:
        bar.advance()
        time.sleep(0.5)
    assert capsys.readouterr().err == "Measuring · step 1 of 7\n"
