"""A model that draws CIFAR-10: what its autoencoder keeps, what its denoiser draws, by hours.

    python benchmarks/cifar.py --runs runs/cifar --output results/cifar --assets assets/cifar

Measures RUNS/autoencoder (`pelap train cifar_autoencoder`) and RUNS/denoiser (`pelap train cifar
--run.autoencoder …`), or one of them, as far as they are trained; both go on with `pelap resume`.
--assets writes the model there, in bfloat16, as diffusers saves it. A training that went
on from those weights on another machine is another --part, whose curves are put behind the others.
"""

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from matplotlib.figure import Figure
from torch import Tensor

from evidence import markdown, put_table, read_experiment, write_experiment
from evidence_figures import draw_strips, save_figure
from pelap.config.run_folder import RunFolder
from pelap.core.files import write_whole
from pelap.core.records import to_json_dict
from pelap.data.load import load_pictures
from pelap.measure.features import extract, load_resnet20
from pelap.measure.run_evaluation import evaluate_run
from pelap.measure.run_sampling import draw_samples, load_system, sample_labels
from pelap.method.normalizer import fold_normalizer
from pelap.method.pipeline import read_class_names, to_pipeline
from pelap.pages.canvas import DPI, RUN_COLOURS, WIDTH

CPU = torch.device("cpu")
MILESTONES = (1, 3, 6, 12, 24, 48, 96)
"""Hours of training at which a grid of samples is kept."""
NUM_NEIGHBOURS = 20
OF_AUTOENCODER = ("psnr", "ssim", "rfd", "reconstruction_accuracy")
OF_DENOISER = ("class_accuracy", "fd", "fd_to_reconstructions", "precision", "recall")


def hours_by_step(run: RunFolder) -> dict[int, float]:
    """Hours of training behind each step written down, without validation, samples and files."""
    lines = [{"step": 0}, *run.metrics("train")]
    size, seconds, found = run.config().data.batch_size, 0.0, {0: 0.0}
    for before, after in pairwise(lines):
        seconds += (after["step"] - before["step"]) * size / after["images_per_second"]
        found[after["step"]] = seconds / 3600
    return found


def curve(run: RunFolder, fields: dict[str, str], split: str) -> list[dict[str, float]]:
    """Fields of the metrics (old name → new name) of a split, with hours and epochs."""
    hours = hours_by_step(run)
    return [
        {"hours": hours[line["step"]], "epoch": line["epoch"]}
        | {new: line[old] for old, new in fields.items()}
        for line in run.metrics(split)
        if all(line.get(old) is not None for old in fields) and line["step"] in hours
    ]


def curves(autoencoder: RunFolder | None, denoiser: RunFolder | None) -> dict[str, Any]:
    """What was validated while both trained."""
    losses = {"reconstruction_loss": "squared_error", "feature_loss": "feature_loss"}
    found: dict[str, Any] = {}
    if autoencoder is not None:
        found["autoencoder"] = curve(autoencoder, losses, "validation")
    if denoiser is not None:
        found["denoiser"] = curve(denoiser, {"diffusion_loss": "flow_loss"}, "validation")
        accuracy = {"class_accuracy_resnet20": "class_accuracy", "num_samples": "num_samples"}
        found["samples"] = curve(denoiser, accuracy, "samples")
    return found


def measure(run: RunFolder, num_samples: int, metrics: tuple[str, ...]) -> dict[str, Any]:
    """The quality of a run's model on all test pictures, measured once for each state of it."""
    state = {"steps": run.metrics("validation")[-1]["step"], "num_samples": num_samples}
    kept = run.path / "cifar_quality.json"
    if kept.exists() and (found := json.loads(kept.read_text()))["state"] == state:
        return found
    config = run.config()
    evaluation = replace(config.evaluation, num_samples=num_samples, precision="bf16")
    data = replace(config.data, num_test=None)
    result = to_json_dict(
        evaluate_run(run, replace(config, evaluation=evaluation, data=data), metrics)
    )
    kept.write_text(json.dumps({"state": state} | result))
    return {"state": state} | result


def keep_grids(run: RunFolder, before: float, output: Path) -> None:
    """Copy the first grid after each milestone, and the last."""
    hours = hours_by_step(run)
    lines = [line for line in run.metrics("samples") if line["step"] in hours]
    for milestone in MILESTONES:
        later = [line for line in lines if before + hours[line["step"]] >= milestone]
        if later and before < milestone:
            write_whole(
                output / f"grid_{milestone}h.png", (run.path / later[0]["grid"]).read_bytes()
            )
    if lines:
        write_whole(output / "grid_last.png", (run.path / lines[-1]["grid"]).read_bytes())


def find_neighbours(run: RunFolder, output: Path) -> dict[str, Any]:
    """The training pictures nearest to some samples, by pixels and by features: does it copy?

    The yardstick: how near the nearest training picture is to a test picture.
    """
    config = run.config()
    config = replace(config, evaluation=replace(config.evaluation, num_samples=NUM_NEIGHBOURS))
    splits = load_pictures(config.data, config.run.seed)
    train = splits.train.fetch(torch.arange(len(splits.train)))
    samples = draw_samples(load_system(run, CPU), config, labels=sample_labels(config))
    test = splits.test.fetch(torch.arange(1000))
    judge = load_resnet20()
    strips, found = [("samples", samples)], {}
    for name, of in {
        "pixels": lambda x: x.flatten(1).float() / 255,
        "features": lambda x: extract(judge, x, CPU),
    }.items():
        references = of(train)
        distances, nearest = torch.cdist(of(samples), references).min(dim=1)
        usual = torch.cdist(of(test), references).min(dim=1).values
        strips.append((f"nearest of the training pictures by {name}", train[nearest]))
        found[name] = {
            "samples_mean": float(distances.mean()),
            "test_pictures_mean": float(usual.mean()),
            "samples_min": float(distances.min()),
            "test_pictures_min": float(usual.min()),
        }
    shown = [(title, as_arrays(pictures)) for title, pictures in strips]
    save_figure(lambda: draw_strips(shown), output / "neighbours.png")
    return found


def as_arrays(pictures: Tensor) -> np.ndarray:
    return pictures.permute(0, 2, 3, 1).numpy()


def draw_reconstructions(run: RunFolder, output: Path) -> None:
    """Test pictures and what the autoencoder makes of them."""
    with np.load(run.pictures_path) as pictures:
        strips = [(name, pictures[name]) for name in ("originals", "reconstructions")]
    save_figure(lambda: draw_strips(strips), output / "reconstructions.png")


def draw_curves(parts: dict[str, Any]) -> Figure:
    """PSNR of the autoencoder, loss and class accuracy of the denoiser, by hours."""
    shown = {
        "autoencoder: PSNR on test pictures, dB": (
            "autoencoder",
            lambda p: psnr(p["squared_error"]),
        ),
        "denoiser: flow loss on test pictures": ("denoiser", lambda p: p["flow_loss"]),
        "samples that show the asked class, %": ("samples", lambda p: 100 * p["class_accuracy"]),
    }
    shown = {title: way for title, way in shown.items() if joined(parts, way[0])}
    figure = Figure(figsize=(WIDTH, 2.2 * len(shown)), dpi=DPI, layout="constrained")
    for axes, (title, (name, value)) in zip(
        np.atleast_1d(figure.subplots(len(shown), 1)), shown.items(), strict=True
    ):
        points = joined(parts, name)
        hours = [point["hours"] for point in points]
        axes.plot(hours, [value(point) for point in points], "o-", color=RUN_COLOURS[0], ms=3)
        axes.set_title(title)
        axes.set_xlabel("hours of training")
        axes.grid(axis="y")
    return figure


def joined(parts: dict[str, Any], name: str) -> list[dict[str, float]]:
    """A curve's points of all parts, hours counted on."""
    points, before = [], 0.0
    for part in parts.values():
        own = part.get(name, [])
        points += [point | {"hours": before + point["hours"]} for point in own]
        before += own[-1]["hours"] if own else 0.0
    return points


def psnr(squared_error: float) -> float:
    return float(10 * np.log10(4 / squared_error))


def write_assets(autoencoder: RunFolder | None, denoiser: RunFolder | None, assets: Path) -> None:
    """The model in bfloat16, as diffusers saves it: a pipeline, or the autoencoder alone."""
    if denoiser is not None:
        pipeline = to_pipeline(load_system(denoiser, CPU), read_class_names(denoiser.model))
        assert isinstance(pipeline, DiTPipeline)
        for part in (pipeline.vae, pipeline.transformer):
            part.register_to_config(_name_or_path="")
        pipeline.to(torch.bfloat16).save_pretrained(assets)
        return
    assert autoencoder is not None
    system = load_system(autoencoder, CPU)
    vae: Any = system.autoencoder
    if system.normalizer is not None:
        fold_normalizer(system.normalizer, vae)
    vae.register_to_config(_name_or_path="")
    vae.to(torch.bfloat16).save_pretrained(assets / "vae")


def table(result: dict[str, Any]) -> str:
    """Every figure with its number of pictures."""
    rows = []
    for part in ("autoencoder", "denoiser"):
        for name, value in result.get(part, {}).get("quality", {}).items():
            spread = "" if value["low"] is None else f"{value['low']:.3f} to {value['high']:.3f}"
            rows.append([part, name, f"{value['value']:.3f}", spread, f"{value['num_pictures']:,}"])
    return markdown(["", "measure", "value", "95 % interval", "pictures"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the two runs")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--assets", type=Path, help="folder for the model in bfloat16")
    parser.add_argument("--part", default="1", help="name of this part of the training (1)")
    parser.add_argument("--num-samples", type=int, default=10_000, help="drawn (10,000)")
    options = parser.parse_args()
    figures = options.output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    autoencoder, denoiser = (
        RunFolder(options.runs / name) if (options.runs / name / "model").is_dir() else None
        for name in ("autoencoder", "denoiser")
    )
    if autoencoder is None and denoiser is None:
        parser.error(f"{options.runs} holds neither autoencoder/model nor denoiser/model")
    path = options.output / "cifar.json"
    result = {"parts": {}} | read_experiment(path)
    earlier = {name: part for name, part in result["parts"].items() if name != options.part}
    result["parts"] = earlier | {options.part: curves(autoencoder, denoiser)}
    if autoencoder is not None:
        result["autoencoder"] = measure(autoencoder, 8, OF_AUTOENCODER)
        # kept by part: what a later part improves on
        result.setdefault("autoencoder_after", {})[options.part] = result["autoencoder"]["quality"]
        draw_reconstructions(autoencoder, figures)
    if denoiser is not None:
        result["denoiser"] = measure(denoiser, options.num_samples, OF_DENOISER)
        result["neighbours"] = find_neighbours(denoiser, figures)
        before = joined(earlier, "denoiser")
        keep_grids(denoiser, before[-1]["hours"] if before else 0.0, figures)
    write_experiment(
        path, __doc__, result, (result.get("denoiser") or result["autoencoder"])["machine"]
    )
    save_figure(lambda: draw_curves(result["parts"]), figures / "curves.png")
    put_table(options.output / "README.md", "figures", table(result))
    if options.assets is not None:
        write_assets(autoencoder, denoiser, options.assets)


if __name__ == "__main__":
    main()
