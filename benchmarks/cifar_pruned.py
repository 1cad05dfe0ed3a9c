"""What the model in the box loses with its latents, width, layers and tokens, recovered alike.

    python benchmarks/cifar_pruned.py --runs runs/cifar-pruned --output results/cifar-pruned

The model `cifar`, three seeds, 600 steps of recovery on CIFAR-10's training pictures with their
classes, 200 too where tokens are compared, and 10,000 of the best. What stands in --output is not
done again, so the command can be interrupted and goes on anywhere. `--stage time` measures speed on
its own: run it on a quiet machine.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pelap
from evidence import (
    for_each,
    markdown,
    plus_minus,
    put_table,
    read_experiment,
    stage_options,
    write_experiment,
)
from pelap.commands.any_model import as_pictures
from pelap.commands.bench_sample import BenchSettings
from pelap.commands.bench_sampling import bench_sample
from pelap.commands.compare_pictures import RowSettings, draw_side_by_side
from pelap.config.run_config import RunConfig
from pelap.core.files import write_whole
from pelap.core.records import to_json
from pelap.families.dit import begin_as_identity
from pelap.measure.counts import num_parameters
from pelap.measure.macs import count_denoiser_macs
from pelap.measure.model_quality import (
    TO_UNPRUNED,
    QualitySettings,
    References,
    draw_samples,
    make_references,
    reconstruct,
)
from pelap.measure.quality import QualityPictures, measure_quality
from pelap.measure.run_sampling import save_pictures
from pelap.method.step import in_precision, resolve_precision
from pelap.method.system import LatentDiffusion
from pelap.models.loaded import LoadedModel

MODEL = "cifar"
SEEDS = (42, 43, 44)
SHORT, LONG, LONGEST = 200, 600, 10_000
"""Steps of recovery: where tokens are compared, of everything, and of the best, with one seed."""
BATCH_SIZE, NUM_SCORED = 64, 256
MEASURED = QualitySettings(num_pictures=2000, num_samples=2000, steps=20)
OTHER_STEPS = (50, 10)
GUIDANCE = 2.0
CPU = torch.device("cpu")
NAME = "cifar-pruned"


@dataclass(frozen=True)
class Way:
    """What is removed, and for how many steps that is recovered."""

    name: str
    how: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[int, ...] = (LONG,)
    forgets: bool = False
    """Whether the small denoiser begins with random weights."""
    in_few_steps: bool = False
    """Whether it is drawn in OTHER_STEPS too, with the first seed."""

    @property
    def slug(self) -> str:
        return self.name.replace(",", "").replace(" ", "_")


BOTH = (LONG, SHORT)
TOKENS = {"keep": 4, "rotate": "decoder", "tokens": 4}
HALF = {"keep": 8, "rotate": "decoder"}
RANDOM = {"denoiser_criterion": "random"}
UNPRUNED = Way("unpruned", budgets=(0,), in_few_steps=True)
WAYS = (
    UNPRUNED,
    Way("8 latents", HALF),
    Way("8 random latents", {"keep": 8, "criterion": "random"}),
    Way("2 of 3 heads", {"denoiser_widths": (2, 8)}),
    Way("2 of 3 heads, random", {"denoiser_widths": (2, 8)} | RANDOM),
    Way("4 of 8 layers", {"denoiser_widths": (3, 4)}),
    Way("4 of 8 layers, random", {"denoiser_widths": (3, 4)} | RANDOM),
    Way("8 latents, 4 of 8 layers", HALF | {"denoiser_widths": (3, 4)}, in_few_steps=True),
    Way("1 of 3 heads", {"denoiser_widths": (1, 8)}, (*BOTH, LONGEST), in_few_steps=True),
    Way("3 of 8 layers", {"denoiser_widths": (3, 3)}, BOTH),
    Way("2 of 8 layers", {"denoiser_widths": (3, 2)}, BOTH),
    Way("8 latents, 2 of 8 layers", HALF | {"denoiser_widths": (3, 2)}, in_few_steps=True),
    Way("4 latents, 1 of 4 tokens", TOKENS, BOTH, in_few_steps=True),
    Way("6 latents, 1 of 4 tokens", TOKENS | {"keep": 6}, BOTH),
    Way("all latents, 1 of 4 tokens", {"tokens": 4}, BOTH),
    Way("4 latents, 1 of 4 tokens, random weights", TOKENS, BOTH, forgets=True),
    Way("4 latents, 1 of 4 tokens, 5 of 8 layers", TOKENS | {"denoiser_widths": (3, 5)}),
)


@dataclass(frozen=True)
class Unit:
    """One model to make and measure."""

    way: Way
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.way.slug}-seed={self.seed}-steps={self.steps}"


def units() -> list[Unit]:
    """What decides on tokens first, the longer recovery before the shorter, seed by seed."""
    ranked = [
        (bool(way.how) and SHORT not in way.budgets, rank, seed, place, Unit(way, seed, steps))
        for place, way in enumerate(WAYS)
        for rank, steps in enumerate(way.budgets)
        for seed in (SEEDS if steps in BOTH else SEEDS[:1])
    ]
    return [unit for *_, unit in sorted(ranked, key=lambda one: one[:4])]


def pictures() -> RunConfig:
    """CIFAR-10 as the model takes it, told its classes, guided."""
    config = as_pictures(pelap.open_model(MODEL), pelap.pictures("cifar10"))
    return replace(config, evaluation=replace(config.evaluation, guidance=GUIDANCE))


def make(unit: Unit, runs: Path) -> LoadedModel:
    """Prune and recover."""
    folder = runs / "recovered" / unit.name
    if not folder.exists():
        pelap.recover(
            prune(unit, runs), pictures(), teacher=MODEL, output=folder, steps=unit.steps,
            seed=unit.seed, batch_size=BATCH_SIZE, num_pictures=256, checkpoint_every=200,
            precision=resolve_precision("auto", CPU),
        )  # fmt: skip
    return pelap.open_model(folder)


def prune(unit: Unit, runs: Path) -> LoadedModel:
    """The pruned model, the same for all lengths of recovery."""
    folder = runs / "pruned" / replace(unit, steps=0).name
    if not folder.exists():
        pelap.prune(
            MODEL, pictures(), num_pictures=NUM_SCORED, seed=unit.seed, **unit.way.how
        ).save(folder)
    model = pelap.open_model(folder)
    return with_random_weights(model, unit.seed) if unit.way.forgets else model


def with_random_weights(model: LoadedModel, seed: int) -> LoadedModel:
    """The same model, its denoiser as before all training."""
    denoiser: Any = copy.deepcopy(model.denoiser).float()  # type: ignore[union-attr]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in denoiser.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        begin_as_identity(denoiser)
    return replace(model, denoiser=denoiser)


def measure(unit: Unit, runs: Path, figures: Path) -> None:
    """Make a model, and write one JSON file on its quality and size, and a row of pictures."""
    path = runs / "units" / f"{unit.name}.json"
    if path.exists():
        return
    config, whole = pictures(), pelap.open_model(MODEL)
    model = whole if unit.way == UNPRUNED else make(unit, runs)
    references = make_references(whole, config, MEASURED, CPU)
    assert references.told is not None
    assert model.denoiser is not None
    system = replace(model, condition=references.told.condition).measured_system(CPU)
    is_first = unit.seed == SEEDS[0]
    originals = references.originals[: MEASURED.num_pictures]
    decoded = reconstruct(system, originals, 250)
    given = QualityPictures(originals, decoded)
    found = {
        "way": unit.way.name, "seed": unit.seed, "steps": unit.steps,
        "macs": count_denoiser_macs(model.denoiser),
        "parameters": num_parameters(model.denoiser),
        **quality(("psnr", "rfd"), given, config),
        **measure_samples(system, references, config, replace(MEASURED, seed=unit.seed)),
    }  # fmt: skip
    if unit.way.in_few_steps and unit.steps in (0, max(unit.way.budgets)) and is_first:
        found["drawn_in"] = {
            str(drawn): measure_samples(
                system, references, config, replace(MEASURED, seed=unit.seed, steps=drawn)
            )
            for drawn in OTHER_STEPS
        }
    if is_first:
        save_row(model, whole, figures / f"{unit.way.slug}-{unit.steps}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def measure_samples(
    system: LatentDiffusion, references: References, config: RunConfig, how: QualitySettings
) -> dict[str, float]:
    """Draw samples, and hold them against pictures, reconstructions and the classes asked for."""
    told, one = references.told, references.originals[:1]
    assert told is not None
    label = f"Drawing in {how.steps} steps"
    with in_precision("auto", CPU):
        samples = draw_samples(system, one, how, 250, label, told, GUIDANCE)
    labels = told.of_samples(0, len(samples))["class_labels"]
    given = QualityPictures(one, one, samples, sample_labels=labels)
    return {
        **quality(("class_accuracy",), given, config),
        **distance(samples, references.originals, config),
        **distance(samples, references.reconstructions, config, TO_UNPRUNED),
    }


def distance(
    samples: Tensor, references: Tensor, config: RunConfig, ending: str = ""
) -> dict[str, float]:
    found = quality(("fd",), QualityPictures(references, references, samples), config)
    return {name + ending: value for name, value in found.items()}


def quality(names: Sequence[str], given: QualityPictures, config: RunConfig) -> dict[str, float]:
    found = measure_quality(
        names, given, config.evaluation.extractor, device=CPU, cache=None, num_bootstraps=1, seed=0
    )
    return {name: value.value for name, value in found.items()}


def save_row(model: LoadedModel, whole: LoadedModel, path: Path) -> None:
    """Two pictures of each class, from the noise of the unpruned model's, carried over."""
    asked = RowSettings(num_rows=10, guidance=GUIDANCE, drawn_steps=MEASURED.steps)
    models, rows = [whole] if model is whole else [whole, model], []
    for seed in (0, 1):
        drawn, reason = draw_side_by_side(models, None, asked, seed, None)
        assert drawn is not None, reason
        rows.append(np.stack(drawn.columns[-1].pictures))
    pictures = np.stack(rows, axis=1).reshape(20, *rows[0].shape[1:]).transpose(0, 3, 1, 2)
    path.unlink(missing_ok=True)
    save_pictures(torch.from_numpy(pictures.repeat(2, 2).repeat(2, 3)), len(pictures), path)


def time_ways(runs: Path, done: dict[str, Any]) -> None:
    """Whole samplings of each way against the unpruned model, in turn."""
    whole = pelap.open_model(MODEL)
    for way in WAYS:
        path = runs / "time" / f"{way.slug}.json"
        if way == UNPRUNED or way.forgets or way.name.endswith(", random"):
            continue
        if way.slug in done or path.exists():
            continue
        bench = bench_sample(
            prune(Unit(way, SEEDS[0], 0), runs), whole,
            BenchSettings("dpm-solver++", MEASURED.steps, (100,), rounds=3),
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(bench, indent=1).encode())


SAMPLED = {"FD-ResNet20": 2, f"FD-ResNet20{TO_UNPRUNED}": 2, "class-accuracy-ResNet20": 3}
FIGURES = SAMPLED | {"psnr_db": 2, "rFD-ResNet20": 2}


def throughput(way: Way, times: dict[str, Any]) -> float | None:
    """Over the unpruned model's; what was chosen at random is as fast, None where not timed."""
    timed = times.get(way.slug.removesuffix("_random_weights").removesuffix("_random"))
    if timed is None:
        return 1.0 if way == UNPRUNED else None
    return timed["ratios"][0]["ratio"]


def table(found: list[dict[str, Any]], times: dict[str, Any]) -> str:
    """A row a way and length of recovery: mean ± deviation over the seeds."""
    rows = []
    for way in WAYS:
        for steps in way.budgets:
            ours = [one for one in found if (one["way"], one["steps"]) == (way.name, steps)]
            if not ours:
                continue
            ratio = throughput(way, times)
            speed = "" if ratio is None else f"{ratio:.2f}×"
            values = (plus_minus([one[n] for one in ours], d) for n, d in FIGURES.items())
            macs, parameters = (ours[0][name] / 1e6 for name in ("macs", "parameters"))
            rows.append([way.name, f"{steps:,}", f"{len(ours)}", f"{parameters:.1f} M",
                         f"{macs:.0f} M", speed, *values])  # fmt: skip
    header = ["model", "steps", "seeds", "parameters", "MACs", "throughput", *FIGURES]
    return markdown(header, rows)


def few_steps_table(found: list[dict[str, Any]], times: dict[str, Any]) -> str:
    """A row a way and number of steps: what samples are worth, and the factor of both savings.

    A sampling's time is that of its steps, so the factor is the throughput beside the unpruned
    model's at equal steps, times 50 over the steps.
    """
    rows = []
    for way in WAYS:
        ours = [one for one in found if one["way"] == way.name and "drawn_in" in one]
        for one in ours:
            drawn = {**{int(n): v for n, v in one["drawn_in"].items()}, MEASURED.steps: one}
            ratio, name = throughput(way, times), f"{way.name}, {one['steps']:,} of recovery"
            for steps in sorted(drawn, reverse=True):
                factor = "" if ratio is None else f"{ratio * max(OTHER_STEPS) / steps:.1f}×"
                values = (plus_minus([drawn[steps][n]], d) for n, d in SAMPLED.items())
                rows.append([name if one["steps"] else way.name, f"{steps}", factor, *values])
    return markdown(["model", "steps", "throughput", *SAMPLED], rows)


def rows_of_pictures(figures: Path) -> str:
    """Every row that was drawn, with its name."""
    parts = []
    for way in WAYS:
        for steps in way.budgets:
            if (figures / (name := f"{way.slug}-{steps}.png")).exists():
                parts.append(f"{way.name}, {steps:,} steps:\n\n![{way.name}](figures/{name})\n")
    return "\n".join(parts)


def summarise(runs: Path, output: Path) -> None:
    """Tables, pictures and JSON from what was measured, here and before."""
    before = read_experiment(output / f"{NAME}.json")
    read = {path.stem: json.loads(path.read_text()) for path in (runs / "units").glob("*.json")}
    found = dict(sorted((before.get("units", {}) | read).items()))
    timed = {path.stem: json.loads(path.read_text()) for path in (runs / "time").glob("*.json")}
    times = before.get("time", {}) | timed
    write_experiment(output / f"{NAME}.json", __doc__, {"units": found, "time": times})
    put_table(output / "README.md", "table", table([*found.values()], times))
    few = few_steps_table([*found.values()], times)
    put_table(output / "README.md", "few", few)
    put_table(output / "README.md", "rows", rows_of_pictures(output / "figures"))


def main() -> None:
    options = stage_options(__doc__)
    before = read_experiment(options.output / f"{NAME}.json")
    figures = options.output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    if options.stage == "time":
        time_ways(options.runs, before.get("time", {}))
    elif options.stage == "quality":
        missing = [unit for unit in units() if unit.name not in before.get("units", {})]
        for_each(partial(measure, runs=options.runs, figures=figures), missing, options.jobs)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
