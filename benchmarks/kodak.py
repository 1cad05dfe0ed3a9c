"""Evidence at a larger size: autoencoders trained on thumbnails, analysed on photographs.

    python benchmarks/kodak.py --runs runs/kodak --budget runs/budget --output results/kodak

The three unpruned 16-channel autoencoders that budget.py trains longest on CIFAR-10, and what
`pelap analyze` finds for them on the Kodak photographs below PELAP_DATA at 512 pixels: what every
criterion, both rotations and random channels keep. They are convolutions and norms alone, so they
take pictures of any size. What is done is not done again.
"""

import argparse
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from budget import FOLDERS, LONGEST, SEEDS
from evidence import for_each, markdown, plus_minus, put_table, write_experiment
from evidence_figures import draw_lines, save_figure
from pelap.core.files import write_whole

BUDGETS = (12, 8, 4)
SIZE = 512
NUM_CURVE = 6
"""Photographs that the curves are measured on; the others are analysed."""
DRAWN = ("random", "variance", "leave_one_out", "conditional", "elimination", "pca", "decoder")


def analyse(seed: int, runs: Path, budget: Path) -> None:
    """Write the analysis of one autoencoder on the Kodak photographs."""
    import pelap

    path = analysis_file(seed, runs)
    if path.exists():
        return
    model = pelap.open_model(budget / FOLDERS[LONGEST] / f"unpruned_16-seed={seed}")
    result = pelap.analyze(
        replace(model, denoiser=None, denoiser_name=""),
        pelap.pictures(Path(os.environ["PELAP_DATA"]) / "kodak", SIZE, resize=True),
        num_pictures=5, num_curve=NUM_CURVE, num_search=2, learned_steps=100, batch_size=1,
        effort="exact",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(result.as_dict(), indent=1) + "\n").encode())


def analysis_file(seed: int, runs: Path) -> Path:
    """Where the analysis of that seed's autoencoder is."""
    return runs / f"unpruned_16-seed={seed}.json"


def losses(analysis: dict[str, Any]) -> dict[str, dict[int, list[float]]]:
    """Fall of the PSNR in dB by way and number of kept channels: one, or one a random draw."""
    found: dict[str, dict[int, list[float]]] = {
        one["name"]: {point["num_kept"]: [point["psnr_db"]] for point in one["curve"]}
        for one in analysis["criteria"]
    }
    for one in analysis["rotations"]:
        pairs = zip(one["num_kept"], one["psnr_db"], strict=True)
        found[one["kind"]] = {kept: [value] for kept, value in pairs}
    random = analysis["random"]
    found["random"] = dict(zip(random["num_kept"], random["psnr_db"], strict=True))
    return {
        way: {kept: [analysis["psnr_db"] - one for one in values] for kept, values in curve.items()}
        for way, curve in found.items()
    }


def all_losses(analyses: list[dict[str, Any]]) -> dict[str, dict[int, list[float]]]:
    """The same, values of all models together."""
    merged: dict[str, dict[int, list[float]]] = {}
    for analysis in analyses:
        for way, curve in losses(analysis).items():
            for kept, values in curve.items():
                merged.setdefault(way, {}).setdefault(kept, []).extend(values)
    return merged


def loss_table(analyses: list[dict[str, Any]]) -> str:
    """Fall of the PSNR at some numbers of kept channels."""
    rows = [
        [way, *(plus_minus(curve[kept], 2) for kept in BUDGETS)]
        for way, curve in all_losses(analyses).items()
    ]
    return markdown(["kept by", *(f"{kept} kept: lost, dB" for kept in BUDGETS)], rows)


def summarise(runs: Path, output: Path) -> None:
    """Table, figure and kodak.json from what was measured."""
    files = [analysis_file(seed, runs) for seed in SEEDS]
    analyses = [json.loads(file.read_text()) for file in files if file.exists()]
    write_experiment(output / "kodak.json", __doc__, {"analyses": analyses})
    put_table(output / "README.md", "table", loss_table(analyses))
    merged = all_losses(analyses)
    lines: Any = {way: {k: v for k, v in merged[way].items() if k % 2 == 0} for way in DRAWN}
    panels = {f"PSNR lost on {NUM_CURVE} Kodak photographs at {SIZE} pixels, dB": lines}
    figure = output / "figures" / "reconstruction.png"
    save_figure(lambda: draw_lines(panels, "channels kept", range(2, 17, 2)), figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the analyses")
    parser.add_argument("--budget", type=Path, required=True, help="runs of budget.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--jobs", type=int, default=2, help="at a time, a thread each (2)")
    options = parser.parse_args()
    for_each(partial(analyse, runs=options.runs, budget=options.budget), SEEDS, options.jobs)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
