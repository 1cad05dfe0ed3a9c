"""Fixed tiny cases through the command line, and the numbers that come out of each.

    python tests/golden_cases.py OUT.json          # in any commit's checkout, with its own pelap
    python tests/golden_cases.py OUT.json OLD.json # and say where the two differ, bit for bit

A refactoring keeps all of them: on one machine bit for bit, on another within the tolerance of
test_golden.py, whose reference is golden.json beside it.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from safetensors.torch import load_file

from pelap.cli import main
from tiny_pipelines import PIPELINES

Values = dict[str, float | str]
PICTURES = ["--data.source", "photos", "--data.size", "16", "--num-pictures", "24",
            "--num-curve", "16", "--num-search", "8", "--learned-steps", "2",
            "--effort", "exact"]  # fmt: skip
SIZES = {"sana": "32"}
UNSTABLE = re.compile(r"images_per_second|versions|machine|seconds|path|date|digest")
"""Fields that are not the same in every run of the same code."""
WAYS = {
    "filled": ["--keep", "0,2,3", "--fill", "mean", *PICTURES],
    "zeroed": ["--keep", "0,2,3", "--fill", "zero"],
    "rotated": ["--keep", "3", "--rotate", "pca", *PICTURES],
    "decoder": ["--keep", "2", "--rotate", "decoder", *PICTURES],
    "narrow": ["--denoiser-macs", "0.8", "--denoiser-criterion", "magnitude"],
    "both": ["--keep", "1,2", "--denoiser-macs", "0.7", "--denoiser-criterion", "random"],
}


def call(*command: str | Path) -> None:
    assert main([str(word) for word in command]) == 0, command


def numbers(found: Any, name: str = "") -> Iterator[tuple[str, float | str]]:
    """Every number, and a hash of every text, of nested JSON by its dotted place."""
    if UNSTABLE.search(name):
        return
    if isinstance(found, dict):
        for key, value in found.items():
            yield from numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(found, list) and len(found) > 8 and all(_is_number(x) for x in found):
        yield name, _mixed(torch.tensor(found, dtype=torch.float64))
    elif isinstance(found, list):
        for index, value in enumerate(found):
            yield from numbers(value, f"{name}.{index}")
    elif _is_number(found):
        yield name, float(found)
    elif isinstance(found, str):
        yield name, hashlib.sha256(re.sub(r"\d+\.\d+", "", found).encode()).hexdigest()[:8]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mixed(values: torch.Tensor) -> float:
    """One number that changes with any of the values and with their order."""
    flat = values.detach().double().flatten()
    return float((flat * torch.cos(torch.arange(1, len(flat) + 1, dtype=torch.float64))).sum())


def weights(folder: Path) -> Values:
    """For each part of a saved model its weights in one number, and names and shapes in a hash."""
    found: Values = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        if path.parent.name.startswith("text_encoder"):
            continue
        tensors = load_file(path)
        part = str(path.parent.relative_to(folder))
        shapes = json.dumps({name: list(tensors[name].shape) for name in sorted(tensors)})
        found[f"{part} shapes"] = hashlib.sha256(shapes.encode()).hexdigest()[:8]
        found[part] = sum(
            _mixed(tensors[name]) * np.cos(index) for index, name in enumerate(sorted(tensors))
        )
    return found


def json_values(path: Path) -> Values:
    return dict(numbers(json.loads(path.read_text())))


def training(folder: Path) -> Values:
    """Metrics and weights of the preset tiny."""
    call("train", "tiny", "--output", folder / "run")
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return dict(numbers([json.loads(line) for line in lines])) | weights(folder / "run" / "model")


def measuring(folder: Path) -> Values:
    """Evaluation, diagnosis and the report's tables of the preset tiny after three steps."""
    run = folder / "run"
    call("train", "tiny", "--output", run, "--run.max-steps", "3")
    call("evaluate", run, "--metrics", "psnr", "ssim")
    call("diagnose", run, "--num-pictures", "32")
    call("report", run)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", (run / "report.html").read_text(), re.DOTALL)
    table = [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells]
    machine = json.loads((run / "evaluation.json").read_text())["machine"]
    table = ["" if cell == machine else cell for cell in table]
    return (
        {f"evaluation.{k}": v for k, v in json_values(run / "evaluation.json").items()}
        | {f"diagnosis.{k}": v for k, v in json_values(run / "diagnosis.json").items()}
        | {f"cell.{k}": v for k, v in numbers(table)}
    )


def analysing(folder: Path) -> Values:
    """An analysis of a pipeline without a condition."""
    PIPELINES["ldm"]().save_pretrained(folder / "model")
    call("analyze", folder / "model", "--output", folder / "out", *PICTURES)
    values = json_values(folder / "out" / "analysis.json")
    return {place: value for place, value in values.items() if place != "model_digest"}


def pruning(name: str, folder: Path) -> Values:
    """A family's pipeline, pruned in every way."""
    PIPELINES[name]().save_pretrained(folder / "model")
    found: Values = {}
    for way, options in WAYS.items():
        small = folder / way
        options = [SIZES.get(name, word) if word == "16" else word for word in options]
        call("prune", folder / "model", *options, "--output", small)
        found |= {f"{way} {part}": value for part, value in weights(small).items()}
    return found


def recovering(folder: Path) -> Values:
    """A recovery of a few steps, of latents and width."""
    PIPELINES["ldm"]().save_pretrained(folder / "model")
    call("prune", folder / "model", *WAYS["both"], "--output", folder / "small")
    call("recover", folder / "small", "--teacher", folder / "model", "--output", folder / "out",
         "--steps", "4", "--batch-size", "4", "--num-pictures", "16", "--feature-weight", "0.5",
         "--learning-rate", "1e-4", "--decoder-learning-rate", "1e-4",
         "--teacher-weight", "1", *PICTURES[:4])  # fmt: skip
    return weights(folder / "out")


def exporting(folder: Path) -> Values:
    """What the exported networks say of fixed inputs."""
    import onnxruntime

    PIPELINES["ldm"]().save_pretrained(folder / "model")
    call("export", folder / "model", "--output", folder / "onnx")
    found: Values = {}
    for path in sorted((folder / "onnx").rglob("*.onnx")):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = {}
        for one in session.get_inputs():
            shape = [size if isinstance(size, int) else 2 for size in one.shape]
            kind = np.int64 if "int64" in one.type else np.float32
            ramp = np.cos(np.arange(np.prod(shape, dtype=int))).reshape(shape)
            given[one.name] = (500 * np.abs(ramp) if kind is np.int64 else ramp).astype(kind)
        for output, value in zip(session.get_outputs(), session.run(None, given), strict=True):
            found[f"{path.stem} {output.name}"] = _mixed(torch.from_numpy(np.asarray(value)))
    return found


CASES: dict[str, Callable[[Path], Values]] = {
    "training": training,
    "measuring": measuring,
    "analysing": analysing,
    "recovering": recovering,
    "exporting": exporting,
} | {f"pruning {name}": lambda folder, name=name: pruning(name, folder) for name in PIPELINES}


def run_case(name: str, folder: Path) -> Values:
    """The numbers of one case; made anew in an empty folder."""
    torch.manual_seed(0)
    return CASES[name](folder)


def write(output: Path, old: Path | None) -> int:
    """Run every case and write its numbers; say which differ from an older file's."""
    found = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = run_case(name, Path(folder))
    output.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    before = json.loads(old.read_text()) if old is not None else found
    differing = [
        f"{case}: {place}: {before.get(case, {}).get(place)} → {values.get(place)}"
        for case, values in found.items()
        for place in sorted({*values, *before.get(case, {})})
        if values.get(place) != before.get(case, {}).get(place)
    ]
    print("\n".join(differing) or "all the same")  # noqa: T201
    return 1 if differing else 0


if __name__ == "__main__":
    files = [Path(word) for word in sys.argv[1:]]
    sys.exit(write(files[0], files[1] if len(files) > 1 else None))
