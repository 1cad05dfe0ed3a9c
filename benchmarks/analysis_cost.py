"""What sparing decodes changes of an analysis: effort `exact` against `normal`, in one run.

    python benchmarks/analysis_cost.py --runs runs/analysis-cost --output results/analysis-cost

CIFAR-10's autoencoder (assets/cifar/vae) on its training pictures, and TAEF2 (32 channels) on
Kodak photographs made small. Both efforts run by turns in one process: the ratio of their times
holds on a machine that others use. What is done is not done again.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import mean
from typing import Any

import pelap
import taef2
from evidence import markdown, put_table, write_experiment
from evidence_figures import draw_lines, save_figure
from pelap.analysis.analysis_record import Analysis
from pelap.analysis.recommendation import recommend
from pelap.commands.analyze_model import plan_analysis
from pelap.core.files import write_whole
from pelap.core.records import from_json_dict
from pelap.models.loaded import LoadedModel

CASES: dict[str, dict[str, Any]] = {
    "cifar": {"num_pictures": 40, "num_curve": 20, "num_search": 10, "batch_size": 40},
    "taef2": {"num_pictures": 6, "num_curve": 6, "num_search": 6, "batch_size": 2},
}
ORDERS = ("normal", "exact")
"""Efforts by turns."""
MOST_NEEDED = 10
REAL_SIZE = 512
"""Of what is planned only: decoding it exactly takes hours on a CPU."""
CRITERION = "elimination"
"""Whose order says which channels are needed most."""


def open_case(name: str, size: int) -> tuple[Any, Any]:
    """The model and the pictures of a case."""
    data = Path(os.environ["PELAP_DATA"])
    if name == "cifar":
        folder = Path(__file__).parent.parent / "assets" / "cifar" / "vae"
        return pelap.open_model(folder), pelap.pictures("cifar10", 32)
    photographs = pelap.pictures(data / "kodak", size, resize=True)
    return LoadedModel("taef2", taef2.build()), photographs


def measure(name: str, size: int, runs: Path) -> None:
    """Write the analyses of one case and their seconds."""
    path = runs / f"{name}.json"
    if path.exists():
        return
    model, pictures = open_case(name, size)
    found: dict[str, Any] = {"size": size, "settings": CASES[name], "seconds": {}}
    for effort in ORDERS:
        start = time.perf_counter()
        result = pelap.analyze(model, pictures, effort=effort, learned_steps=0, **CASES[name])
        found["seconds"].setdefault(effort, []).append(time.perf_counter() - start)
        found[effort] = result.as_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """What the effort changed: cost, most needed channels, and worth of the recommended sets.

    Sets are judged by the exact analysis, which decodes every criterion's: the best by the normal
    one against the best there is.
    """
    normal, exact = (
        from_json_dict(Analysis, found[effort], effort) for effort in ("normal", "exact")
    )
    needed = [set(one.criterion(CRITERION).ranking[:MOST_NEEDED]) for one in (normal, exact)]
    loss, said = {}, {}
    for count in normal.random.num_kept[:-1]:
        best = recommend(exact, keep=count)
        chosen = recommend(normal, keep=count)
        same = next(
            (one.at(count) for one in exact.criteria
             if sorted(one.at(count).channels) == chosen.channels),
            None,
        )  # fmt: skip
        loss[str(count)] = None if same is None else best.psnr_db - same.psnr_db
        said[str(count)] = chosen.psnr_db - best.psnr_db
    return {
        "decodes": {one.effort: _per_picture(one, "decodes") for one in (normal, exact)},
        "backward": {one.effort: _per_picture(one, "backward") for one in (normal, exact)},
        "seconds_ratio": mean(found["seconds"]["exact"]) / mean(found["seconds"]["normal"]),
        "most_needed_in_common": len(needed[0] & needed[1]),
        "recommended_loses_db": loss,
        "recommended_psnr_differs_db": said,
    }


def _per_picture(analysis: Analysis, kind: Any) -> float:
    assert analysis.cost is not None
    return analysis.cost.per_picture(kind)


def plan_real() -> dict[str, dict[str, float]]:
    """Calls a picture, at most, of TAEF2 on twelve photographs at 512 pixels."""
    model, pictures = open_case("taef2", REAL_SIZE)
    found = {}
    for effort in ("fast", "normal", "exact"):
        cost = plan_analysis(model, pictures, effort=effort).cost
        found[effort] = {kind: cost.per_picture(kind) for kind in ("decodes", "backward")}
    return found


def summarise(runs: Path, output: Path) -> None:
    """Table, figure and analysis-cost.json from what was measured."""
    files = {name: runs / f"{name}.json" for name in CASES}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    compared = {name: compare(one) for name, one in found.items()}
    planned = plan_real()
    best = {
        name: {effort: best_curve(one[effort]) for effort in ORDERS} for name, one in found.items()
    }
    write_experiment(
        output / "analysis-cost.json",
        __doc__,
        {"compared": compared, "planned": planned, "best_psnr_db": best},
    )
    put_table(output / "README.md", "table", table(compared))
    put_table(output / "README.md", "plan", plan_table(planned))
    panels = {f"{name}: PSNR of the best criterion, dB": curves for name, curves in best.items()}
    figure = output / "figures" / "best.png"
    save_figure(lambda: draw_lines(panels, "channels kept", range(0, 33, 4)), figure)


def table(compared: dict[str, Any]) -> str:
    """A row an autoencoder: what `normal` costs beside `exact`, and what it loses."""
    rows = [
        [name, *(f"{one['decodes'][effort]:.0f}" for effort in ("exact", "normal")),
         f"{one['seconds_ratio']:.1f}", f"{one['most_needed_in_common']} of {MOST_NEEDED}",
         _worst(one["recommended_loses_db"]), _worst(one["recommended_psnr_differs_db"])]
        for name, one in compared.items()
    ]  # fmt: skip
    head = [
        "autoencoder",
        "decodes a picture, exact",
        "normal",
        "time, exact / normal",
        "most needed in common",
        "recommended set loses, dB",
        "its PSNR is off by, dB",
    ]
    return markdown(head, rows)


def plan_table(planned: dict[str, dict[str, float]]) -> str:
    """A row an effort: calls a picture, at most, of `plan_real`."""
    rows = [
        [effort, *(f"{calls[kind]:.0f}" for kind in ("decodes", "backward"))]
        for effort, calls in planned.items()
    ]
    return markdown(["effort", "decodes a picture", "passes back a picture"], rows)


def best_curve(analysis: dict[str, Any]) -> dict[float, list[float]]:
    """PSNR in dB of the criterion that is best with so many channels, by that number."""
    return {
        count: [max(one["curve"][at]["psnr_db"] for one in analysis["criteria"])]
        for at, count in enumerate(analysis["random"]["num_kept"])
    }


def _worst(by_count: dict[Any, float | None]) -> str:
    """The largest absolute value, and at how many of all counts nothing can be said."""
    known = [abs(value) for value in by_count.values() if value is not None]
    unknown = len(by_count) - len(known)
    more = f" ({unknown} of {len(by_count)} sets not in exact)" if unknown else ""
    return f"at most {max(known, default=0):.3f}{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the analyses")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--size", type=int, default=64, help="pixels of the photographs (64)")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="which (all)")
    options = parser.parse_args()
    for name in options.cases:
        measure(name, options.size, options.runs)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
