"""Run a verb in two processes on the CPU."""

import os
import subprocess
import sys

# `accelerate launch --cpu` starts a single process unless there is MPI
LAUNCH = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]


def run_in_two_processes(*arguments: object) -> None:
    """`torchrun --nproc_per_node 2 -m pelap ARGUMENTS`, which must succeed."""
    done = subprocess.run(
        [sys.executable, *LAUNCH, "-m", "pelap", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=900,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
