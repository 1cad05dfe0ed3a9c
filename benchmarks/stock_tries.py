"""Tries of benchmarks/reliability.py on stock pipelines: a file of theirs, or of what was pruned
from them, is damaged, or a field of its JSON has another type."""

import random
import sys
from pathlib import Path

from forked_commands import run_command

TESTS = Path(__file__).parents[1] / "tests"
PICTURES = ["--data.source", "photos", "--data.size", "32", "--data.num-train", "24",
            "--data.num-test", "8"]  # fmt: skip
FEW = [*PICTURES, "--num-pictures", "8"]
WITHOUT_TEXT = ("stable_diffusion_xl", "pixart_sigma")
"""Those that are saved without the text encoders that they need."""
READERS = {
    "describe": ["describe", "model"],
    "prune": ["prune", "model", "--keep", "2", "--unconditional", *FEW, "-o", "out"],
    "prune width": ["prune", "model", "--denoiser-macs", "0.7", "--unconditional", *FEW,
                    "-o", "out"],
    "analyze": ["analyze", "model", "--num-curve", "8", "--num-search", "8", *FEW, "-o", "out"],
    "sample": ["sample", "model", "--num", "1", "--steps", "2", "-o", "out.png"],
    "sample told": ["sample", "model", "--prompt", "abc", "--num", "1", "--steps", "2",
                    "-o", "out.png"],
    "evaluate": ["evaluate", "model", "--unconditional", *PICTURES],
    "export": ["export", "model", "-o", "out"],
    "describe small": ["describe", "small"],
    "prune small": ["prune", "small", "--keep", "1", "--unconditional", *FEW, "-o", "out"],
    "recover": ["recover", "small", "--teacher", "model", "--unconditional", "--steps", "2",
                "--batch-size", "4", *FEW, "-o", "out"],
}  # fmt: skip


def make_pipelines(home: Path) -> None:
    """A folder a pipeline with `model`, as diffusers saves it, and `small`, pruned; made once.

    The classes of tests/tiny_pipelines.py.
    """
    sys.path.append(str(TESTS))
    from tiny_pipelines import PIPELINES

    for name, build in PIPELINES.items():
        if name in WITHOUT_TEXT or (folder := home / name / "small").exists():
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        build().save_pretrained(folder.parent / "model")
        ended = run_command([*READERS["prune"][:-1], "small"], folder.parent)
        if ended.code:
            raise SystemExit(f"{name}: {ended.said}")


def choose(home: Path, source: random.Random) -> tuple[Path, str]:
    """A pipeline's folder and one of READERS."""
    pipelines = sorted(path.parent for path in home.glob("*/small"))
    return source.choice(pipelines), source.choice([*READERS])
