"""Evidence for criteria, rotations and recovery: a 16-channel model pruned to 12, 8 and 4.

    python benchmarks/criteria.py --runs runs/criteria --budget runs/budget --output DIR

Three `kl16_small` models with their denoisers, and the three unpruned autoencoders of budget.py.
Each is analysed, then pruned by every criterion, by both rotations and at random; what is measured
is the pruned model itself. What is done is not done again, so the command can be interrupted.
"""

import argparse
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence import (
    for_each,
    markdown,
    plus_minus,
    put_table,
    train_trial,
    with_seeds,
    write_experiment,
)
from evidence_figures import draw_lines, draw_strips, save_figure
from pelap.config.presets import kl16_small
from pelap.config.run_config import GateConfig, RunConfig
from pelap.core.files import write_whole

SEEDS = (42, 43, 44)
BUDGETS = (12, 8, 4)
NUM_RANDOM = 5
NUM_MEASURED = 2000
NUM_SAMPLES = 2000
SAMPLING_STEPS = 15
RECOVERY_STEPS = 200
MAIN = "kl16_small"
"""The subject of seed 42, of which most is measured; its other seeds follow after a dash."""
CRITERIA = ("variance", "kl", "redundancy", "taylor", "learned", "decoder_sensitivity",
            "leave_one_out", "leave_one_out_linear", "conditional", "elimination")  # fmt: skip
ROTATIONS = ("pca", "decoder")
SAMPLED_OF_ALL = ("elimination", "pca", "decoder", "random 0")
"""Ways whose samples are drawn with 8 channels, before and after recovery, of every seed; of seed
42 it is all, with 4 channels too."""
FILLED = ("variance", "elimination", "conditional", "decoder")
"""Ways that are measured with every fill, of seed 42."""
STAGES = {"zeros": "zeros", "sample": "as pruned", "recover": "recovered"}
"""What happened to the denoiser whose samples are drawn: zeros stand for removed channels in front
of it; they are predicted from the kept ones; that, and it was recovered."""
UNPRUNED_STAGES = {"sample": "as trained", "recover": "trained on"}
DRAWN = ("random", "variance", "pca", "leave_one_out", "conditional", "elimination", "decoder")
"""Ways in the figure, and what the three further autoencoders are pruned by."""


def model_config() -> RunConfig:
    """`kl16_small` with every channel open, for two thirds of its epochs."""
    config = kl16_small()
    return replace(
        config,
        gate=GateConfig(kind="open"),
        data=replace(config.data, batch_size=64),
        run=replace(config.run, epochs=4, denoiser_epochs=8),
    )


def subjects(runs: Path, budget: Path) -> dict[str, Path]:
    """Run folders of what is pruned, by name."""
    autoencoders = budget / "autoencoders"
    return {
        **{kl16(seed): runs / f"{MAIN}-seed={seed}" for seed in SEEDS},
        **{f"paper16-{seed}": autoencoders / f"unpruned_16-seed={seed}" for seed in SEEDS},
    }


def kl16(seed: int) -> str:
    """Name of the kl16 model of that seed."""
    return MAIN if seed == SEEDS[0] else f"{MAIN}-{seed}"


def seed_of(subject: str) -> int:
    """The seed a subject was trained with, for its samples and its recovery."""
    return SEEDS[0] if subject == MAIN else int(subject.rpartition("-")[2])


@dataclass(frozen=True)
class Unit:
    """One pruned model to measure."""

    subject: str
    way: str
    """A criterion, a rotation, `random N`, or `unpruned`."""
    num_kept: int
    fill: str = "linear"
    stage: str = "reconstruct"
    """What is measured, a key of `STAGES` or `reconstruct`."""

    @property
    def file_name(self) -> str:
        words = (self.stage, self.subject, self.way, str(self.num_kept), self.fill)
        return "-".join(words).replace(" ", "_") + ".json"


def units() -> list[Unit]:
    """Everything that is measured, what matters most first."""
    ways = [*CRITERIA, *ROTATIONS, *(f"random {draw}" for draw in range(NUM_RANDOM))]
    found = [Unit(MAIN, "unpruned", 16, stage=stage) for stage in ("reconstruct", "sample")]
    found += [Unit(MAIN, way, kept) for kept in BUDGETS for way in ways]
    found += [Unit(MAIN, "unpruned", 16, stage="recover")]
    found += [
        Unit(MAIN, way, kept, stage=stage)
        for kept in (8, 4)
        for stage in ("sample", "recover")
        for way in ways
    ]
    few = ("elimination", "decoder", "random 0")
    found += [Unit(MAIN, way, 12, stage=stage) for stage in ("sample", "recover") for way in few]
    found += [
        Unit(MAIN, way, kept, fill)
        for fill in ("zero", "mean")
        for kept in BUDGETS
        for way in FILLED
    ]
    others = [kl16(seed) for seed in SEEDS[1:]]
    for subject in others:
        found += [Unit(subject, "unpruned", 16)]
        found += [Unit(subject, way, kept) for kept in BUDGETS for way in ways]
    for stage in ("sample", "recover"):
        for subject in others:
            found += [Unit(subject, "unpruned", 16, stage=stage)]
            found += [Unit(subject, way, 8, stage=stage) for way in SAMPLED_OF_ALL]
    for seed in SEEDS:
        found += [Unit(kl16(seed), way, 8, stage="zeros") for way in SAMPLED_OF_ALL]
    chosen = [way for way in ways if way in DRAWN or way.startswith("random")]
    for seed in SEEDS:
        subject = f"paper16-{seed}"
        found += [Unit(subject, "unpruned", 16)]
        found += [Unit(subject, way, kept) for kept in BUDGETS for way in chosen]
    return found


def groups() -> list[list[Unit]]:
    """Units for one process each: quick ones together, long ones alone, order kept."""
    found: dict[Any, list[Unit]] = {}
    for unit in units():
        quick = (unit.subject, unit.num_kept, unit.fill)
        found.setdefault(quick if unit.stage == "reconstruct" else unit, []).append(unit)
    return list(found.values())


def measure_group(group: list[Unit], runs: Path, budget: Path) -> None:
    """Measure some units."""
    for unit in group:
        measure_unit(unit, runs, budget)


def analyse(subject: str, runs: Path, budget: Path) -> None:
    """Write the analysis of a subject: 2,000 training pictures, 512 others for the curves."""
    import pelap
    from pelap.commands.analyze_model import ANALYSIS_FILE

    folder = runs / "analysis" / subject
    if (folder / ANALYSIS_FILE).exists():
        return
    model = _open(subject, runs, budget)
    result = pelap.analyze(
        model, keep=8 if subject == MAIN else None,
        num_pictures=2000, num_curve=512, num_search=128, learned_steps=300, batch_size=50,
        effort="exact",
    )  # fmt: skip
    if subject == MAIN:
        result.save(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / ANALYSIS_FILE, (json.dumps(result.as_dict(), indent=1) + "\n").encode())


def _open(subject: str, runs: Path, budget: Path) -> Any:
    from pelap.models.opening import open_model

    model = open_model(subjects(runs, budget)[subject])
    if subject.startswith(MAIN):
        return model
    return replace(model, denoiser=None, denoiser_name="")


def measure_unit(unit: Unit, runs: Path, budget: Path) -> None:
    """Prune (and recover), measure, and write one JSON file."""
    from pelap.pruning.apply import prune
    from pelap.pruning.latents.latent_slicing import slice_denoiser

    path = runs / "units" / unit.file_name
    if path.exists():
        return
    model = _open(unit.subject, runs, budget)
    plan = _plan(model, unit, runs)
    pruned = model if plan is None else prune(model, plan).model
    channels = list(range(16)) if plan is None else list(plan.channels)
    if unit.stage == "zeros" and plan is not None:
        pruned = replace(pruned, denoiser=slice_denoiser(model.denoiser, plan.latent_map))
    if unit.stage == "recover":
        pruned = _recover(unit, model, pruned, plan, runs)
    found: dict[str, Any] = {**unit.__dict__, "channels": channels, **_reconstruct(pruned, model)}
    if unit.stage != "reconstruct":
        found |= _sample(unit, pruned, model, runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def _plan(model: Any, unit: Unit, runs: Path) -> Any:
    from pelap.commands.analyze_model import read_analysis
    from pelap.pruning.apply import plan_pruning
    from pelap.pruning.latents.latent_plan import PruneRequest

    if unit.way == "unpruned":
        return None
    options: dict[str, Any] = {"fill": unit.fill, "num_kept": unit.num_kept}
    if unit.way in ROTATIONS:
        options["rotation"] = unit.way
    elif unit.way.startswith("random"):
        draw = int(unit.way.split()[1])
        options |= {"num_kept": None, "channels": random_channels(unit.num_kept, draw)}
    else:
        options["criterion"] = unit.way
    analysis = read_analysis(runs / "analysis" / unit.subject)
    return plan_pruning(model, PruneRequest(**options), analysis)


def _recover(unit: Unit, model: Any, pruned: Any, plan: Any, runs: Path) -> Any:
    """The pruned model after a short training with the unpruned one as its teacher."""
    import pelap
    from pelap.models.opening import open_model
    from pelap.pruning.apply import PrunedModel, save_pruned

    name = unit.file_name.removesuffix(".json")
    student, teacher = model, None
    if plan is not None:
        folder = runs / "pruned" / name
        save_pruned(PrunedModel(plan, pruned), folder, {})
        student, teacher = open_model(folder), model
    output = runs / "recovered" / name
    pelap.recover(
        student, model.config, teacher=teacher, output=output, steps=RECOVERY_STEPS,
        batch_size=64, learning_rate=3e-4, seed=seed_of(unit.subject), num_pictures=500,
    )  # fmt: skip
    return replace(open_model(output), config=model.config)


def random_channels(num_kept: int, draw: int) -> tuple[int, ...]:
    """Channels drawn without looking."""
    import numpy as np

    order = np.random.default_rng((SEEDS[0], draw)).permutation(16)
    return tuple(sorted(order[:num_kept].tolist()))


def _test_pictures(model: Any, num: int) -> Any:
    import torch

    from pelap.data.load import load_pictures

    few = replace(model.config.data, num_train=1, num_test=num)
    return load_pictures(few, SEEDS[0]).test.fetch(torch.arange(num))


def _decode_all(system: Any, originals: Any) -> Any:
    import torch

    from pelap.data.pictures import to_batch
    from pelap.method.sampling import to_uint8

    with torch.no_grad():
        parts = []
        for part in originals.split(250):
            mean = system.encode_moments(to_batch(part, "cpu")).chunk(2, dim=1)[0]
            parts.append(to_uint8(system.decode(mean)))
    return torch.cat(parts)


def _reconstruct(pruned: Any, model: Any) -> dict[str, Any]:
    originals = _test_pictures(model, NUM_MEASURED)
    decoded = _decode_all(pruned.system(), originals)
    return _quality(["psnr", "rfd"], originals, reconstructions=decoded) | {
        "num_pictures": NUM_MEASURED
    }


def _quality(names: list[str], originals: Any, **pictures: Any) -> dict[str, float]:
    import torch

    from pelap.core.cache import cache_home
    from pelap.measure.quality import QualityPictures, measure_quality

    values = measure_quality(
        names, QualityPictures(originals, **pictures), "resnet20", device=torch.device("cpu"),
        cache=cache_home(), num_bootstraps=1,
    )  # fmt: skip
    return {name: value.value for name, value in values.items()}


def _sample(unit: Unit, pruned: Any, model: Any, runs: Path) -> dict[str, Any]:
    """Fréchet distances of samples to test pictures and to the unpruned model's reconstructions."""
    import numpy as np
    import torch

    from pelap.core.seeding import generator
    from pelap.method.sampling import build_sampler, denoise, to_uint8

    system = pruned.system()
    source = generator(seed_of(unit.subject), "sampling", 0, torch.device("cpu"))
    noise = torch.randn(NUM_SAMPLES, unit.num_kept, 8, 8, generator=source)
    parts = []
    with torch.no_grad():
        for part in noise.split(250):
            sampler = build_sampler("dpm-solver++", system.scheduler)
            latents = denoise(system.denoiser, sampler, part, SAMPLING_STEPS)
            parts.append(to_uint8(system.decode(latents)))
    samples = torch.cat(parts)
    pictures = _pictures_file(runs, unit)
    pictures.parent.mkdir(parents=True, exist_ok=True)
    np.save(pictures, samples[:8].permute(0, 2, 3, 1).numpy())
    originals = _test_pictures(model, 10_000)
    reconstructions = _unpruned_reconstructions(
        model, originals[:5000], runs / f"unpruned-{unit.subject}"
    )
    found = _quality(["fd"], originals, samples=samples)
    to_unpruned = _quality(["fd"], reconstructions, samples=samples)
    return {
        "fd_resnet20": found["FD-ResNet20"],
        "fd_resnet20_to_unpruned_reconstructions": to_unpruned["FD-ResNet20"],
        "num_samples": NUM_SAMPLES,
    }


def read_units(runs: Path) -> list[dict[str, Any]]:
    """What has been measured so far; with pictures, also their contrast."""
    found = []
    for unit in units():
        file = runs / "units" / unit.file_name
        if file.exists():
            found.append(json.loads(file.read_text()) | _contrast(runs, unit))
    return found


def _contrast(runs: Path, unit: Unit) -> dict[str, float]:
    """Standard deviation of the values of the eight samples that are shown, in grey levels."""
    import numpy as np

    file = _pictures_file(runs, unit)
    return {"contrast": float(np.load(file).astype(float).std())} if file.exists() else {}


def _pictures_file(runs: Path, unit: Unit) -> Path:
    return runs / "pictures" / unit.file_name.replace(".json", ".npy")


def summarise(runs: Path, output: Path) -> None:
    """Tables, figures and criteria.json from what was measured."""
    found = read_units(runs)
    files = {
        subject: runs / "analysis" / subject / "analysis.json" for subject in subjects(runs, runs)
    }
    analyses = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    write_experiment(output / "criteria.json", __doc__, {"units": found, "analyses": analyses})
    readme = output / "README.md"
    put_table(readme, "kl16 table", reconstruction_table(found, MAIN))
    put_table(readme, "paper16 table", reconstruction_table(found, "paper16"))
    put_table(readme, "fill table", fill_table(found))
    put_table(readme, "sample table", sample_table(found))
    put_table(readme, "recovery table", recovery_table(found))
    for figure in sorted((runs / "analysis" / MAIN / "figures").glob("*.png")):
        target = output / "figures" / "analysis" / figure.name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, figure.read_bytes())
    save_figure(lambda: draw_curves(found), output / "figures" / "reconstruction.png")
    strips = _strips(runs)
    if strips:
        save_figure(lambda: draw_strips(strips), output / "figures" / "samples.png")


def select(found: list[dict[str, Any]], subject: str, way: str, **fields: Any) -> list[Any]:
    """Measurements of a way; `random` takes every draw, `paper16` every seed."""
    return [
        one
        for one in found
        if one["subject"].startswith(subject)
        and (one["way"] == way or (way == "random" and one["way"].startswith("random ")))
        and all(one[key] == value for key, value in fields.items())
    ]


WAYS = ("unpruned", *CRITERIA, *ROTATIONS, "random")


def reconstruction_table(found: list[dict[str, Any]], subject: str) -> str:
    """PSNR and rFD by way and number of kept channels."""
    header = ["kept by", *(f"{k} kept: PSNR, dB" for k in BUDGETS), *(f"{k}: rFD" for k in BUDGETS)]
    rows = []
    for way in WAYS:
        cells = []
        for key in ("psnr_db", "rFD-ResNet20"):
            for kept in BUDGETS:
                number = 16 if way == "unpruned" else kept
                chosen = select(found, subject, way, num_kept=number, stage="reconstruct",
                                fill="linear")  # fmt: skip
                cells.append(plus_minus([one[key] for one in chosen], 2))
        if set(cells) != {"–"}:
            rows.append([way, *cells])
    return markdown(header, rows)


def fill_table(found: list[dict[str, Any]]) -> str:
    """PSNR by fill, of the kl16 model of seed 42."""
    found = [one for one in found if one["subject"] == MAIN]
    fills = ("zero", "mean", "linear")
    header = ["kept by", *(f"{k} kept, {fill}" for k in BUDGETS for fill in fills)]
    rows = []
    for way in FILLED:
        cells = []
        for kept in BUDGETS:
            for fill in fills:
                chosen = select(found, MAIN, way, num_kept=kept, stage="reconstruct", fill=fill)
                cells.append(plus_minus([one["psnr_db"] for one in chosen], 2))
        rows.append([way, *cells])
    return markdown(header, rows)


SAMPLE_COLUMNS = {"psnr_db": 2, "rFD-ResNet20": 2, "fd_resnet20": 2,
                  "fd_resnet20_to_unpruned_reconstructions": 2, "contrast": 0}  # fmt: skip


def sample_table(found: list[dict[str, Any]]) -> str:
    """All three models with 8 channels, before and after recovery."""
    header = ["kept by", "channels", "denoiser", "models", *SAMPLE_COLUMNS]
    rows = []
    for kept, way in ((16, "unpruned"), *((8, way) for way in SAMPLED_OF_ALL)):
        for stage, words in STAGES.items():
            chosen = select(found, MAIN, way, num_kept=kept, stage=stage)
            if chosen:
                cells = [plus_minus([one[key] for one in chosen], digits)
                         for key, digits in SAMPLE_COLUMNS.items()]  # fmt: skip
                told = UNPRUNED_STAGES[stage] if way == "unpruned" else words
                rows.append([way, str(kept), told, str(len(chosen)), *cells])
    return markdown(header, rows)


RECOVERY_COLUMNS = {"psnr_db": "PSNR, dB", "rFD-ResNet20": "rFD", "fd_resnet20": "FD"}


def recovery_table(found: list[dict[str, Any]]) -> str:
    """Every way at every number of channels of the model of seed 42, before → after recovery."""
    found = [one for one in found if one["subject"] == MAIN]
    header = ["kept by", *(f"{k}: {name}" for k in BUDGETS for name in RECOVERY_COLUMNS.values())]
    rows = []
    for way in WAYS:
        cells = []
        for kept in BUDGETS:
            number = 16 if way == "unpruned" else kept
            for key in RECOVERY_COLUMNS:
                stages = (select(found, MAIN, way, num_kept=number, stage=stage)
                          for stage in ("sample", "recover"))  # fmt: skip
                means = (f"{fmean(one[key] for one in chosen):.2f}" if chosen else "–"
                         for chosen in stages)  # fmt: skip
                cells.append(" → ".join(means).replace("– → –", "–"))
        rows.append([way, *cells])
    return markdown(header, rows)


def draw_curves(found: list[dict[str, Any]]) -> Any:
    """PSNR and rFD against the number of kept channels."""
    panels = {}
    for subject, title in ((MAIN, "kl16_small"), ("paper16", "three narrow paper autoencoders")):
        for key, name in (("psnr_db", "PSNR, dB"), ("rFD-ResNet20", "rFD-ResNet20")):
            lines: dict[str, dict[float, list[float]]] = {}
            for way in DRAWN:
                for kept in sorted(BUDGETS):
                    chosen = select(found, subject, way, num_kept=kept, stage="reconstruct",
                                    fill="linear")  # fmt: skip
                    if chosen:
                        lines.setdefault(way, {})[kept] = [one[key] for one in chosen]
                whole = select(found, subject, "unpruned", stage="reconstruct")
                if whole and way in lines:
                    lines[way][16] = [one[key] for one in whole]
            panels[f"{name} of {title}"] = lines
    return draw_lines(panels, "channels kept", sorted((16, *BUDGETS)))


def _strips(runs: Path) -> list[tuple[str, Any]]:
    import numpy as np

    strips = []
    chosen = [("unpruned", Unit(MAIN, "unpruned", 16, stage="sample"))]
    chosen += [
        (f"8 kept by {way}, {words}", Unit(MAIN, way, 8, stage=stage))
        for way in SAMPLED_OF_ALL
        for stage, words in STAGES.items()
    ]
    for title, unit in chosen:
        file = _pictures_file(runs, unit)
        if file.exists():
            strips.append((title, np.load(file)))
    return strips


def _unpruned_reconstructions(model: Any, originals: Any, runs: Path) -> Any:
    import numpy as np
    import torch

    path = runs / "pictures" / "unpruned_reconstructions.npy"
    if path.exists():
        return torch.from_numpy(np.load(path))
    decoded = _decode_all(model.system(), originals)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, decoded.numpy())
    partial.replace(path)
    return decoded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of everything measured")
    parser.add_argument("--budget", type=Path, required=True, help="runs of budget.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--jobs", type=int, default=2, help="at a time, a thread each (2)")
    options = parser.parse_args()
    train = partial(train_trial, runs=options.runs)
    for_each(train, with_seeds({MAIN: model_config()}, SEEDS), options.jobs)
    places = {"runs": options.runs, "budget": options.budget}
    names = list(subjects(options.runs, options.budget))
    for_each(partial(analyse, **places), names, options.jobs)
    for_each(partial(measure_group, **places), groups(), options.jobs)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
