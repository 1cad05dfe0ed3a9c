"""Evidence for what the collapse is: the paper's objective at several λ, its baseline, and ours.

    python benchmarks/collapse.py --runs runs/collapse --output results/collapse

Every run sees the same pictures for the same number of steps of each network, three seeds each.
What is done is not done again, so the command can be interrupted. Needs CIFAR-10 and the ResNet-20
extractor below PELAP_DATA.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evidence import (
    Trial,
    evaluate_trial,
    for_each,
    markdown,
    plus_minus,
    put_table,
    read_runs,
    train_trial,
    with_seeds,
    write_experiment,
)
from evidence_figures import draw_categories, draw_strips, save_figure
from pelap.config.presets import as_baseline, paper_small, pelap_small
from pelap.config.run_config import EvaluationConfig, RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.records import from_json_dict
from pelap.measure.diagnosis_record import Diagnosis

SEEDS = (42, 43, 44)
LAMBDAS = (0.01, 0.0, 0.1, 0.001)
EVALUATION = EvaluationConfig(num_samples=5000, sampler="dpm-solver++", num_steps=20)
NUM_SHOWN = 10


METRICS = ("psnr", "rfd", "fd", "fd_to_reconstructions")


def trials() -> dict[str, RunConfig]:
    """Configs by trial name: half of paper_small's autoencoder, two epochs, a higher rate."""
    paper = _short(paper_small())
    ours = _short(pelap_small())
    ours = replace(ours, run=replace(ours.run, denoiser_epochs=ours.run.epochs))
    found = {"baseline": as_baseline(paper)}
    for weight in LAMBDAS:
        objective = replace(paper.objective, sparsity_weight=weight)
        found[f"objective.sparsity_weight={weight:g}"] = replace(paper, objective=objective)
    return found | {"pelap": ours}


def _short(config: RunConfig) -> RunConfig:
    return replace(
        config,
        network=replace(config.network, autoencoder_channels=16, denoiser_channels=32),
        optimizer=replace(config.optimizer, learning_rate=1e-3, final_learning_rate=5e-5),
        run=replace(config.run, epochs=2, channels_last=False),
    )


def diagnose_trial(trial: Trial, runs: Path) -> None:
    """`pelap diagnose` on a trial, unless that has been done."""
    import pelap

    folder = RunFolder(runs / trial.folder_name)
    if not folder.diagnosis_path.exists():
        pelap.diagnose(folder.path, num_pictures=500)


def measure_trial(trial: Trial, runs: Path) -> None:
    """Train and evaluate one trial; diagnose the first seed's."""
    train_trial(trial, runs)
    evaluate_trial(trial, runs, EVALUATION, METRICS)
    if trial.config.run.seed == SEEDS[0]:
        diagnose_trial(trial, runs)


def label(name: str) -> str:
    """How a trial is called in tables and figures."""
    return name.replace("objective.sparsity_weight=", "λ = ")


def summarise(planned: list[Trial], runs: Path, output: Path) -> None:
    """collapse.json from what the trials measured, table and figures from that."""
    folders = {t.folder_name: runs / t.folder_name for t in planned}
    done = {name: path for name, path in folders.items() if (path / "evaluation.json").exists()}
    content = read_runs(done)
    machine = next(iter(content["runs"].values()))["evaluation"]["machine"]
    write_experiment(output / "collapse.json", __doc__, content, machine)
    table = quality_table(content)
    put_table(output / "README.md", "table", table)
    put_table(output.parents[1] / "docs" / "collapse.md", "collapse table", table)
    draw(content, output / "figures")
    draw_samples(content, runs, output / "figures")


def evaluations(content: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """What the seeds of every trial measured, by the trial's name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder_name, run in content["runs"].items():
        found.setdefault(folder_name.rpartition("-seed=")[0], []).append(run["evaluation"])
    return found


def quality_table(content: dict[str, Any]) -> str:
    """A row a trial: mean ± deviation over its seeds."""
    by_name = evaluations(content)
    return markdown(HEADER, [[label(name), *_cells(found)] for name, found in by_name.items()])


HEADER = (
    "run", "verdicts", "mean mask", "noise loss", "… with zeros", "x̂0 error at 0 dB",
    "reconstruction, dB", "… through the mask", "FD-ResNet20", "… to reconstructions",
)  # fmt: skip


def _cells(found: list[dict[str, Any]]) -> list[str]:
    figures = [_figures(evaluation) for evaluation in found]
    verdicts = [figure["verdict"] for figure in figures]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    digits = {
        "mean_mask": 4, "diffusion_loss": 4, "zero_latent_diffusion_loss": 4, "relative_error": 2,
        "reconstruction_psnr_db": 2, "masked_reconstruction_psnr_db": 2, "FD-ResNet20": 1,
        "FD-ResNet20-to-reconstructions": 1,
    }  # fmt: skip
    return [counts] + [
        plus_minus([f[name] for f in figures if f[name] is not None], number)
        for name, number in digits.items()
    ]


def _figures(evaluation: dict[str, Any]) -> dict[str, Any]:
    masks, quality = evaluation["mask_mean"], evaluation["quality"]
    names = ("diffusion_loss", "zero_latent_diffusion_loss", "gaussian_diffusion_loss",
             "relative_error", "reconstruction_psnr_db", "masked_reconstruction_psnr_db",
             "masked_latent_std")  # fmt: skip
    return {
        "verdict": evaluation["collapse"]["verdict"],
        "mean_mask": sum(masks) / len(masks),
        **{name: evaluation[name] for name in names},
        **{name: value["value"] for name, value in quality.items()},
        "num_samples": evaluation["sampler"]["num_samples"],
    }


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw every figure that needs collapse.json alone."""
    from pelap.pages.diagnosis_figures import plot_denoisers

    by_name = evaluations(content)

    def values(key: str) -> dict[str, list[float]]:
        return {label(name): [_figures(e)[key] for e in es] for name, es in by_name.items()}

    panels = {
        "FD-ResNet20 of samples to test pictures": values("FD-ResNet20"),
        "… to the run's own reconstructions": values("FD-ResNet20-to-reconstructions"),
        "PSNR of decoding through the mask, dB": values("masked_reconstruction_psnr_db"),
    }
    save_figure(lambda: draw_categories(panels), folder / "quality.png")
    diagnoses = {
        label(folder_name.rpartition("-seed=")[0]): from_json_dict(
            Diagnosis, run["diagnosis"], folder_name
        )
        for folder_name, run in content["runs"].items()
        if "diagnosis" in run
    }
    save_figure(lambda: plot_denoisers(diagnoses), folder / "denoiser_by_timestep.png")


def draw_samples(content: dict[str, Any], runs: Path, folder: Path) -> None:
    """Eight samples of the first seed of every trial."""
    strips = []
    for name in evaluations(content):
        with np.load(RunFolder(runs / f"{name}-seed={SEEDS[0]}").pictures_path) as pictures:
            if not strips:
                strips.append(("test pictures", pictures["originals"][:8]))
            strips.append((f"{label(name)}: samples", pictures["samples"][:8]))
    save_figure(lambda: draw_strips(strips), folder / "samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time, a thread each (2)")
    options = parser.parse_args()
    planned = with_seeds(trials(), SEEDS)
    for_each(partial(measure_trial, runs=options.runs), planned, options.jobs)
    summarise(planned, options.runs, options.output)


if __name__ == "__main__":
    main()
