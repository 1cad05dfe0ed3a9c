"""The headline: latent channels, width and both, each beside random, after the same recovery.

    python benchmarks/headline.py --runs runs/headline --output results/headline

`kl16_small` with its denoiser, three seeds. What is done is not done again, so the command can be
interrupted. `--stage time` measures speed on its own: run it on a quiet machine.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from criteria import model_config
from evidence import (
    for_each,
    markdown,
    plus_minus,
    put_table,
    stage_options,
    train_trial,
    with_seeds,
    write_experiment,
)
from evidence_figures import draw_categories, draw_strips, save_figure
from pelap.core.files import write_whole

SEEDS = (42, 43, 44)
NAME = "kl16_small"
NUM_KEPT = 8
WIDTHS = (16, 48)
"""Multiples of 16, which is what this processor computes at once."""
ROTATION = "pca"
CRITERION = "taylor"
NUM_SCORED = 2000
"""Training pictures for the width's criterion."""
STEPS, BATCH_SIZE, LEARNING_RATE, TEACHER_WEIGHT, FEATURE_WEIGHT = 1000, 64, 4e-3, 10.0, 1.0
UNPRUNED_RATE = 1e-3
"""That of its own training, which it goes on with."""
NUM_MEASURED, NUM_SAMPLES, SAMPLING_STEPS = 5000, 5000, 15
WAYS = ("unpruned", "latents", "latents_random", "width", "width_random", "both",
        "both_width_random", "both_random")  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """One model to make and measure."""

    way: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.way}-seed={self.seed}"

    @property
    def draws_latents(self) -> bool:
        return self.way in ("latents_random", "both_random")

    @property
    def draws_width(self) -> bool:
        return self.way.endswith("_random")

    @property
    def cuts_latents(self) -> bool:
        return self.way.startswith(("latents", "both"))

    @property
    def cuts_width(self) -> bool:
        return self.way.startswith(("width", "both"))


def units() -> list[Unit]:
    """Seeds outermost, so that a partial result has all ways."""
    return [Unit(way, seed) for seed in SEEDS for way in WAYS]


def base_folder(seed: int, runs: Path) -> Path:
    return runs / f"{NAME}-seed={seed}"


def analyse(seed: int, runs: Path) -> None:
    """Moments for the rotation: 2,000 training pictures."""
    import pelap
    from pelap.commands.analyze_model import ANALYSIS_FILE

    path = runs / f"analysis-seed={seed}" / ANALYSIS_FILE
    if path.exists():
        return
    model = pelap.open_model(base_folder(seed, runs))
    result = pelap.analyze(
        replace(model, denoiser=None, denoiser_name=""),
        num_pictures=2000, num_curve=256, num_search=32, learned_steps=0, batch_size=50,
        effort="exact",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(result.as_dict(), indent=1) + "\n").encode())


def make(unit: Unit, runs: Path) -> Path:
    """Prune and recover; the folder of the result."""
    import pelap
    from pelap.models.opening import open_model

    recovered = runs / "recovered" / unit.name
    if recovered.exists():
        return recovered
    teacher = open_model(base_folder(unit.seed, runs))
    student, its_teacher = teacher, None
    if unit.way != "unpruned":
        student, its_teacher = open_model(_prune(unit, teacher, runs)), teacher
    pelap.recover(
        student,
        teacher.config,
        teacher=its_teacher,
        output=recovered,
        steps=STEPS,
        parts="denoiser",
        learning_rate=LEARNING_RATE if its_teacher else UNPRUNED_RATE,
        batch_size=BATCH_SIZE,
        teacher_weight=TEACHER_WEIGHT,
        feature_weight=FEATURE_WEIGHT if its_teacher else 0.0,
        seed=unit.seed,
        num_pictures=500,
        checkpoint_every=250,
    )
    return recovered


def _prune(unit: Unit, model: Any, runs: Path) -> Path:
    import pelap

    folder = runs / "pruned" / unit.name
    if folder.exists():
        return folder
    chosen: dict[str, Any] = {}
    if unit.cuts_latents:
        chosen |= {"keep": NUM_KEPT, "analysis": runs / f"analysis-seed={unit.seed}"}
        chosen |= {"criterion": "random"} if unit.draws_latents else {"rotate": ROTATION}
    if unit.cuts_width:
        criterion = "random" if unit.draws_width else CRITERION
        chosen |= {"denoiser_widths": WIDTHS, "denoiser_criterion": criterion}
    pelap.prune(model, num_pictures=NUM_SCORED, seed=unit.seed, **chosen).save(folder)
    return folder


def measure_unit(unit: Unit, runs: Path) -> None:
    """Make a model, and write one JSON file on its quality and size."""
    path = runs / "units" / f"{unit.name}.json"
    if path.exists():
        return
    from pelap.models.opening import open_model

    model = open_model(base_folder(unit.seed, runs))
    pruned = replace(open_model(make(unit, runs)), config=model.config)
    found = {
        "way": unit.way, "seed": unit.seed, "steps": STEPS, **_size(pruned),
        **_reconstruct(pruned, unit, runs), **_sample(pruned, model, unit, runs),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def _size(model: Any) -> dict[str, Any]:
    from pelap.measure.counts import num_parameters
    from pelap.measure.macs import count_denoiser_macs

    side = model.denoiser.config["sample_size"]
    return {
        "parameters": num_parameters(model.autoencoder) + num_parameters(model.denoiser),
        "macs": count_denoiser_macs(model.denoiser),
        "latent_bytes": 4 * model.num_channels * side * side,
    }


def _reconstruct(model: Any, unit: Unit, runs: Path) -> dict[str, Any]:
    """PSNR and rFD; once a seed for the ways that leave the autoencoder as it is."""
    from criteria import _decode_all, _quality, _test_pictures

    name = unit.name if unit.cuts_latents else f"unpruned-seed={unit.seed}"
    path = runs / "reconstructions" / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    originals = _test_pictures(model, NUM_MEASURED)
    decoded = _decode_all(model.system(), originals)
    found = _quality(["psnr", "rfd"], originals, reconstructions=decoded)
    found["num_pictures"] = NUM_MEASURED
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _sample(pruned: Any, model: Any, unit: Unit, runs: Path) -> dict[str, Any]:
    """Fréchet distances of samples to test pictures and to the unpruned reconstructions."""
    import torch

    from criteria import _quality, _test_pictures, _unpruned_reconstructions
    from pelap.core.seeding import generator
    from pelap.method.sampling import build_sampler, denoise, to_uint8

    system = pruned.system()
    source = generator(unit.seed, "sampling", 0, torch.device("cpu"))
    side = pruned.denoiser.config["sample_size"]
    noise = torch.randn(NUM_SAMPLES, pruned.num_channels, side, side, generator=source)
    parts = []
    with torch.no_grad():
        for part in noise.split(250):
            sampler = build_sampler("dpm-solver++", system.scheduler)
            latents = denoise(system.denoiser, sampler, part, SAMPLING_STEPS)
            parts.append(to_uint8(system.decode(latents)))
    samples = torch.cat(parts)
    pictures = runs / "pictures" / f"{unit.name}.npy"
    pictures.parent.mkdir(parents=True, exist_ok=True)
    np.save(pictures, samples[:8].permute(0, 2, 3, 1).numpy())
    originals = _test_pictures(model, 10_000)
    reconstructions = _unpruned_reconstructions(
        model, originals[:5000], runs / f"unpruned-{unit.seed}"
    )
    to_test = _quality(["fd"], originals, samples=samples)
    to_unpruned = _quality(["fd"], reconstructions, samples=samples)
    return {
        "fd_resnet20": to_test["FD-ResNet20"],
        "fd_resnet20_to_unpruned_reconstructions": to_unpruned["FD-ResNet20"],
        "num_samples": NUM_SAMPLES,
        "sampler": "dpm-solver++",
        "sampling_steps": SAMPLING_STEPS,
    }


TIMED = ("both", "width", "latents")
"""Random ones have the same shapes."""
TIMED_STEPS, TIMED_BATCHES, ROUNDS = (50,), (1, 16, 64, 250), 5


def time_ways(runs: Path) -> None:
    """Whole samplings of each way against the unpruned model, alternating in one run."""
    from pelap.commands.bench_sample import BenchSettings
    from pelap.commands.bench_sampling import bench_sample
    from pelap.core.records import to_json
    from pelap.models.opening import open_model

    unpruned = open_model(base_folder(SEEDS[0], runs))
    for way in TIMED:
        model = open_model(runs / "recovered" / f"{way}-seed={SEEDS[0]}")
        for steps in TIMED_STEPS:
            path = runs / "time" / f"{way}-{steps}.json"
            if path.exists():
                continue
            settings = BenchSettings("dpm-solver++", steps, TIMED_BATCHES, rounds=ROUNDS)
            bench = bench_sample(model, unpruned, settings)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, to_json(bench, indent=1).encode())


def read_units(runs: Path) -> list[dict[str, Any]]:
    """What has been measured so far."""
    files = [runs / "units" / f"{unit.name}.json" for unit in units()]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def summarise(runs: Path, output: Path) -> None:
    """Tables, figures and JSON from what was measured."""
    found = read_units(runs)
    times = {
        file.stem: json.loads(file.read_text()) for file in sorted((runs / "time").glob("*.json"))
    }
    result = {"units": found, "time": times}
    machine = next((timed["machine"] for timed in times.values()), None)
    write_experiment(output / "headline.json", __doc__, result, machine)
    for readme, name in ((output / "README.md", "table"), (Path("README.md"), "headline")):
        put_table(readme, name, quality_table(found, times))
    put_table(output / "README.md", "speed", speed_table(times))
    save_figure(lambda: draw_categories(_panels(found)), output / "figures/quality.png")
    strips = [
        (LABELS[way], np.load(runs / "pictures" / f"{way}-seed={SEEDS[0]}.npy"))
        for way in WAYS
        if (runs / "pictures" / f"{way}-seed={SEEDS[0]}.npy").exists()
    ]
    if strips:
        save_figure(lambda: draw_strips(strips), output / "figures/samples.png")


LABELS = {
    "unpruned": "unpruned",
    "latents": "8 of 16 latents",
    "latents_random": "8 random latents",
    "width": "width",
    "width_random": "random width",
    "both": "both",
    "both_width_random": "both, random width",
    "both_random": "both at random",
}
FIGURES = {
    "PSNR, dB": "psnr_db",
    "rFD-ResNet20": "rFD-ResNet20",
    "FD-ResNet20": "fd_resnet20",
    "… to the unpruned reconstructions": "fd_resnet20_to_unpruned_reconstructions",
}
DIGITS = {"psnr_db": 2, "rFD-ResNet20": 2}


def of_way(found: list[dict[str, Any]], way: str, name: str) -> list[float]:
    """One figure of every seed."""
    return [one[name] for one in found if one["way"] == way]


def quality_table(found: list[dict[str, Any]], times: dict[str, Any]) -> str:
    """A row a way: what it costs and what it gives, mean ± deviation over the seeds."""
    (base,) = {one["macs"] for one in found if one["way"] == "unpruned"}
    rows = []
    for way in WAYS:
        if not of_way(found, way, "seed"):
            continue
        sizes = {name: of_way(found, way, name)[0] for name in ("parameters", "macs")}
        latent_bytes = of_way(found, way, "latent_bytes")[0]
        rows.append([
            LABELS[way], f"{sizes['parameters'] / 1e6:.2f} M", f"{sizes['macs'] / base:.0%}",
            f"{latent_bytes:,}", _speed(times, way),
            *(plus_minus(of_way(found, way, name), DIGITS.get(name, 1))
              for name in FIGURES.values()),
        ])  # fmt: skip
    speed = f"throughput, {TIMED_STEPS[-1]} steps, batch {TIMED_BATCHES[-1]}"
    header = ["model", "parameters", "MACs a step", "bytes of a latent", speed, *FIGURES]
    return markdown(header, rows)


def _speed(times: dict[str, Any], way: str) -> str:
    timed = times.get(f"{way.partition('_')[0]}-{TIMED_STEPS[-1]}")
    if timed is None:
        return "1×" if way == "unpruned" else "–"
    return _ratio(timed, TIMED_BATCHES[-1])


def _ratio(timed: dict[str, Any], batch_size: int) -> str:
    (one,) = [ratio for ratio in timed["ratios"] if ratio["batch_size"] == batch_size]
    return f"{one['ratio']:.2f}× ({one['ratio_min']:.2f}–{one['ratio_max']:.2f})"


def speed_table(times: dict[str, Any]) -> str:
    """Throughput over that of the unpruned model by batch size."""
    rows = [
        [LABELS[name.rpartition("-")[0]], name.rpartition("-")[2],
         *(_ratio(timed, batch_size) for batch_size in TIMED_BATCHES)]
        for name, timed in times.items()
    ]  # fmt: skip
    return markdown(["model", "steps", *(f"batch {size}" for size in TIMED_BATCHES)], rows)


def _panels(found: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    return {
        title: {LABELS[way]: of_way(found, way, name) for way in WAYS if of_way(found, way, name)}
        for title, name in FIGURES.items()
    }


def main() -> None:
    options = stage_options(__doc__)
    if options.stage == "time":
        time_ways(options.runs)
    elif options.stage == "quality":
        trials = with_seeds({NAME: model_config()}, SEEDS)
        for_each(partial(train_trial, runs=options.runs), trials, options.jobs)
        for_each(partial(analyse, runs=options.runs), SEEDS, options.jobs)
        for_each(partial(measure_unit, runs=options.runs), units(), options.jobs)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
