"""Fixtures that several test files share."""

import atexit
import os
import shutil
import tempfile

# Before torch is imported: tiny tensors and two workers, so one thread each, here and in the
# processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PELAP_CACHE" not in os.environ:
    os.environ["PELAP_CACHE"] = tempfile.mkdtemp(prefix="pelap-cache-")
    atexit.register(shutil.rmtree, os.environ["PELAP_CACHE"], ignore_errors=True)

from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import torch

from pelap.config.presets import tiny
from pelap.config.run_config import RunConfig
from pelap.config.run_folder import RunFolder
from pelap.training.trainer import train

hypothesis.settings.register_profile("any speed", deadline=None)  # machines are shared
hypothesis.settings.load_profile("any speed")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> RunConfig:
    """The tiny preset cut to one epoch of eight steps."""
    config = tiny()
    return replace(
        config,
        data=replace(config.data, num_train=128, num_test=32),
        run=replace(config.run, epochs=1),
    )


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of the tiny preset."""
    return train(tiny(), tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The real CIFAR-10, or a skip that says why."""
    root = os.environ.get("PELAP_DATA")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("PELAP_DATA names no folder with cifar10/")
    return Path(root) / "cifar10"
