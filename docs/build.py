"""Run every command shown in docs/*.md and put what it prints below it: `make docs`.

A command is a line `$ …` in a ```console block. All pages share one temporary folder, in the order
of PAGES, so that a page can use the run that an earlier one trained.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = [
    "train",
    "resume",
    "evaluate",
    "diagnose",
    "sample",
    "classes",
    "report",
    "reproduce",
    "gates",
    "sweep",
    "analyze",
    "prune",
    "recover",
    "tradeoff",
    "export",
    "describe",
    "bench",
]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def run(command: str, folder: Path) -> str:
    """What a command prints, stderr included, with its exit code if that is not 0."""
    environment = os.environ | {
        "COLUMNS": "96",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    lines = [
        line.rstrip() for line in done.stdout.splitlines() if "pipeline components" not in line
    ]
    if done.returncode:
        lines.append(f"(exit code {done.returncode})")
    return "".join(line + "\n" for line in lines)


def rebuild(page: Path, folder: Path) -> None:
    """Replace the output below each command of a page."""

    def with_output(block: re.Match[str]) -> str:
        commands = [line for line in block[1].splitlines() if line.startswith("$ ")]
        shown = "".join(f"{command}\n{run(command[2:], folder)}" for command in commands)
        return f"```console\n{shown}```"

    page.write_text(BLOCK.sub(with_output, page.read_text()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name in PAGES:
            rebuild(DOCS / f"{name}.md", Path(folder))
