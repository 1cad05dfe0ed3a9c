"""The training step against the naive one, as results/bench holds it.

    python benchmarks/bench.py --output results/bench

Needs CIFAR-10 below PELAP_DATA and a quiet machine: only the ratio says something.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from evidence import write_experiment

COMMAND = (
    "bench", "train", "paper", "--rounds", "4", "--data.num-train", "2000",
    "--data.num-test", "100", "--json",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    options = parser.parse_args()
    done = subprocess.run(
        [sys.executable, "-m", "pelap", *COMMAND], check=True, text=True, stdout=subprocess.PIPE
    )
    found = json.loads(done.stdout)
    write_experiment(options.output / "bench.json", __doc__, {"train": found}, found["machine"])


if __name__ == "__main__":
    main()
