"""Run a verb in two processes on the CPU."""

import subprocess
import sys

OPTIONS = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
           "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip


def run_in_two_processes(*arguments: object) -> None:
    """`accelerate launch --num_processes 2 -m pelap ARGUMENTS`, which must succeed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *OPTIONS, "-m", "pelap"]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
