"""`--device`: where networks compute."""

import os
import subprocess
import sys

import pytest
import torch

from pelap.cli import main
from pelap.core.devices import CHOSEN, choose_device, process_state, torch_device
from pelap.core.errors import ConfigError


@pytest.fixture(autouse=True)
def own_choice(monkeypatch: pytest.MonkeyPatch):
    """What a test chooses ends with it."""
    monkeypatch.setenv(CHOSEN, "")
    monkeypatch.delenv(CHOSEN)


@pytest.mark.parametrize("name", ["nowhere", "cuda:99", "meta:x"])
def test_a_device_that_there_is_not_is_refused(name: str, capsys: pytest.CaptureFixture[str]):
    assert main(["diagnose", "model", "--device", name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"--device {name}: torch finds none here; there is cpu" in said
    assert CHOSEN not in os.environ


def test_several_processes_have_their_devices_from_their_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="launcher"):
        choose_device("cpu")


def test_a_process_that_computes_elsewhere_is_left_there():
    here = torch_device()
    with pytest.raises(ConfigError, match=f"computes on {here} already"):
        choose_device("meta")
    assert CHOSEN not in os.environ


def test_all_that_follows_computes_there():
    code = (
        "from pelap.core.devices import choose_device, torch_device\n"
        "from accelerate import Accelerator, PartialState\n"
        "choose_device('meta')\n"
        "print(torch_device(), PartialState().device, Accelerator().device)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["meta"] * 3


def test_the_same_device_may_be_named_again():
    choose_device(str(torch_device()))
    assert torch_device() == torch.device(os.environ[CHOSEN])


@pytest.mark.parametrize("is_asked", [False, True])
def test_processes_kept_to_the_cpu_know_of_each_other(
    monkeypatch: pytest.MonkeyPatch, is_asked: bool
):
    """accelerate's own PartialState reads this variable only where an Accelerator came first."""
    made: list[bool] = []
    monkeypatch.setattr("pelap.core.devices.PartialState", lambda *, cpu: made.append(cpu))
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(is_asked))
    process_state()
    assert made == [is_asked]
