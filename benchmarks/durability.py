"""What flushing to the disk and checksums cost a training.

    python benchmarks/durability.py --output results/durability

Trains the preset `cifar` for a few steps, which begins a run, writes one checkpoint and the model,
and times every fsync and every digest of a file in it. That is held against the time of the steps
that lie between two checkpoints, at the speed measured. Needs CIFAR-10 below PELAP_DATA.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pelap
from evidence import write_experiment
from pelap.config.overrides import apply_overrides

STEPS = 20


class Timed:
    """A function that adds up how often and how long it was called."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.calls, self.seconds = 0, 0.0

    def __call__(self, *words: Any) -> Any:
        begun = time.perf_counter()
        try:
            return self.function(*words)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    preset = pelap.get_preset("cifar")
    steps = preset.run.checkpoint_every
    assert steps is not None
    few = ["--data.num-train", str(STEPS * preset.data.batch_size), "--data.num-test", "100"]
    words = ["--run.autoencoder", str(pelap.assets.cifar() / "vae"), "--run.max-steps", str(STEPS)]
    words += ["--run.log-every", str(STEPS // 2), "--run.samples-every", "1000"]
    config = apply_overrides(preset, [*few, *words])
    flush, digest = Timed(os.fsync), Timed(hashlib.file_digest)
    with tempfile.TemporaryDirectory() as folder:
        with patch("os.fsync", flush), patch("hashlib.file_digest", digest):
            run = pelap.train(config, Path(folder) / "run")
        lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    training = steps * config.data.batch_size / rates[-1]
    found = {
        "steps_between_checkpoints": steps,
        "seconds_of_these_steps": training,
        "fsync": {"calls": flush.calls, "seconds": flush.seconds},
        "digests": {"calls": digest.calls, "seconds": digest.seconds},
        "share": (flush.seconds + digest.seconds) / training,
    }
    write_experiment(options.output / "durability.json", __doc__, found)
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
