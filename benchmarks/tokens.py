"""Fewer tokens against fewer layers and less width, at about the same time a sample.

    python benchmarks/tokens.py --runs runs/tokens --output results/tokens

The model in the box, `cifar`, three seeds, two lengths of recovery on CIFAR-10's training pictures
with their classes. What is done is not done again. `--stage time` measures speed on its own: run
it on a quiet machine.
"""

import argparse
import copy
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pelap
from evidence import for_each, markdown, plus_minus, put_table, write_experiment
from evidence_figures import draw_strips, save_figure
from pelap.commands.any_model import as_pictures
from pelap.commands.bench_sample import BenchSettings
from pelap.commands.bench_sampling import bench_sample
from pelap.config.run_config import RunConfig
from pelap.core.files import write_whole
from pelap.core.records import to_json
from pelap.families.dit import begin_as_identity
from pelap.measure.macs import count_denoiser_macs
from pelap.measure.model_quality import (
    TO_UNPRUNED,
    QualitySettings,
    draw_samples,
    make_references,
    reconstruct,
)
from pelap.measure.quality import QualityPictures, measure_quality
from pelap.models.loaded import LoadedModel

MODEL = "cifar"
SEEDS = (42, 43, 44)
BUDGETS = (400, 1200)
"""Steps of recovery."""
BATCH_SIZE, NUM_SCORED = 64, 256
MEASURED = QualitySettings(num_pictures=2000, num_samples=2000, steps=20)
GUIDANCE = 2.0
WAYS: dict[str, dict[str, Any]] = {
    "unpruned": {},
    "4 latents, 1 of 4 tokens": {"keep": 4, "rotate": "decoder", "tokens": 4},
    "6 latents, 1 of 4 tokens": {"keep": 6, "rotate": "decoder", "tokens": 4},
    "all latents, 1 of 4 tokens": {"tokens": 4},
    "2 of 8 layers": {"denoiser_widths": (3, 2)},
    "3 of 8 layers": {"denoiser_widths": (3, 3)},
    "1 of 3 heads": {"denoiser_widths": (1, 8)},
    "4 latents, 1 of 4 tokens, random weights": {"keep": 4, "rotate": "decoder", "tokens": 4},
}
RANDOM = "random weights"


@dataclass(frozen=True)
class Unit:
    """One model to make and measure."""

    way: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        short = self.way.replace(",", "").replace(" ", "_")
        return f"{short}-seed={self.seed}-steps={self.steps}"


def units() -> list[Unit]:
    """The short recovery first, and seeds outermost, so that a partial result has all ways."""
    whole = [Unit("unpruned", SEEDS[0], 0)]
    ways = [way for way in WAYS if way != "unpruned"]
    return whole + [Unit(w, seed, steps) for steps in BUDGETS for seed in SEEDS for w in ways]


def pictures() -> RunConfig:
    """CIFAR-10 as the model takes it, told its classes, guided."""
    config = as_pictures(pelap.open_model(MODEL), pelap.pictures("cifar10"))
    return replace(config, evaluation=replace(config.evaluation, guidance=GUIDANCE))


def make(unit: Unit, runs: Path) -> LoadedModel:
    """Prune and recover."""
    if unit.way == "unpruned":
        return pelap.open_model(MODEL)
    folder = runs / "recovered" / unit.name
    if not folder.exists():
        small = prune(unit, runs)
        pelap.recover(
            small, pictures(), teacher=MODEL, output=folder, steps=unit.steps, seed=unit.seed,
            batch_size=BATCH_SIZE, num_pictures=256,
        )  # fmt: skip
    return pelap.open_model(folder)


def prune(unit: Unit, runs: Path) -> LoadedModel:
    """The pruned model, the same for all lengths of recovery."""
    folder = runs / "pruned" / replace(unit, steps=0).name
    if not folder.exists():
        pelap.prune(
            MODEL, pictures(), num_pictures=NUM_SCORED, seed=unit.seed, **WAYS[unit.way]
        ).save(folder)
    model = pelap.open_model(folder)
    if RANDOM not in unit.way:
        return model
    denoiser: Any = copy.deepcopy(model.denoiser).float()  # type: ignore[union-attr]
    with torch.random.fork_rng():
        torch.manual_seed(unit.seed)
        for module in denoiser.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        begin_as_identity(denoiser)
    return replace(model, denoiser=denoiser)


def measure(unit: Unit, runs: Path) -> None:
    """Make a model, and write one JSON file on its quality and size."""
    path = runs / "units" / f"{unit.name}.json"
    if path.exists():
        return
    config, device = pictures(), torch.device("cpu")
    whole, model = pelap.open_model(MODEL), make(unit, runs)
    references = make_references(whole, config, MEASURED, device)
    told = references.told
    assert told is not None
    system = replace(model, condition=told.condition).measured_system(device)
    originals = references.originals[: MEASURED.num_pictures]
    decoded = reconstruct(system, originals, 250)
    samples = draw_samples(
        system, originals[:1], replace(MEASURED, seed=unit.seed), 250, unit.name, told, GUIDANCE
    )
    labels = told.of_samples(0, len(samples))["class_labels"]
    found: dict[str, Any] = {"way": unit.way, "seed": unit.seed, "steps": unit.steps}
    assert model.denoiser is not None
    found["macs"] = count_denoiser_macs(model.denoiser)
    for ending, compared in (("", references.originals), (TO_UNPRUNED, references.reconstructions)):
        names = ["psnr", "rfd", "class_accuracy", "fd"] if not ending else ["fd"]
        given = QualityPictures(
            compared if ending else originals, decoded, samples, sample_labels=labels
        )
        found |= {n + ending: v.value for n, v in quality(names, given, config).items()}
    if not (kept := runs / "pictures" / f"{unit.name}.npy").exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, samples[:10].permute(0, 2, 3, 1).numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def quality(names: list[str], given: QualityPictures, config: RunConfig) -> dict[str, Any]:
    return measure_quality(
        names, given, config.evaluation.extractor, device=torch.device("cpu"), cache=None,
        num_bootstraps=0, seed=0,
    )  # fmt: skip


def time_ways(runs: Path) -> None:
    """Whole samplings of each way against the unpruned model, in turn."""
    whole = pelap.open_model(MODEL)
    for way in WAYS:
        path = runs / "time" / f"{Unit(way, 0, 0).name}.json"
        if way == "unpruned" or RANDOM in way or path.exists():
            continue
        bench = bench_sample(
            prune(Unit(way, SEEDS[0], 0), runs), whole,
            BenchSettings("dpm-solver++", MEASURED.steps, (100,), rounds=3),
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(bench, indent=1).encode())


FIGURES = {"FD-ResNet20": 1, f"FD-ResNet20{TO_UNPRUNED}": 2, "class-accuracy-ResNet20": 3,
           "psnr_db": 2, "rFD-ResNet20": 2}  # fmt: skip


def table(found: list[dict[str, Any]], times: dict[str, Any]) -> str:
    """A row a way and length of recovery: mean ± deviation over the seeds."""
    rows = []
    for steps in (0, *BUDGETS):
        for way in WAYS:
            ours = [one for one in found if (one["way"], one["steps"]) == (way, steps)]
            if not ours:
                continue
            timed = times.get(Unit(way.removesuffix(f", {RANDOM}"), 0, 0).name)
            speed = "1×" if timed is None else f"{timed['ratios'][0]['ratio']:.2f}×"
            values = (plus_minus([one[n] for one in ours], d) for n, d in FIGURES.items())
            rows.append([way, f"{steps:,}", speed, *values])
    return markdown(["model", "steps of recovery", "throughput", *FIGURES], rows)


def summarise(runs: Path, output: Path) -> None:
    """Table, pictures and JSON from what was measured."""
    found = [json.loads(path.read_text()) for path in sorted((runs / "units").glob("*.json"))]
    times = {path.stem: json.loads(path.read_text()) for path in (runs / "time").glob("*.json")}
    machine = next((timed["machine"] for timed in times.values()), None)
    write_experiment(output / "tokens.json", __doc__, {"units": found, "time": times}, machine)
    put_table(output / "README.md", "tokens", table(found, times))
    drawn = [(w, runs / "pictures" / f"{u.name}.npy") for w in WAYS for u in units()
             if u.way == w and u.seed == SEEDS[0] and u.steps in (0, BUDGETS[-1])]  # fmt: skip
    strips = [(way, np.load(path)) for way, path in drawn if path.exists()]
    if strips:
        save_figure(lambda: draw_strips(strips), output / "figures/samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of everything measured")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--stage", choices=["quality", "time", "summarise"], default="quality")
    parser.add_argument("--jobs", type=int, default=2, help="at a time, a thread each (2)")
    options = parser.parse_args()
    if options.stage == "time":
        time_ways(options.runs)
    elif options.stage == "quality":
        for_each(partial(measure, runs=options.runs), units(), options.jobs)
    (options.output / "figures").mkdir(parents=True, exist_ok=True)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
