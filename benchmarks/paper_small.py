"""Evidence from the paper's comparison at half width: what its runs measured, in one file.

    pelap reproduce paper_small --output runs/paper_small --lambdas 0
    python benchmarks/paper_small.py --runs runs/paper_small --output results/paper_small

The first command trains, evaluates and draws; this one collects.
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from evidence import markdown, put_table, read_runs, write_experiment
from pelap.core.files import write_whole

LABELS = {
    "baseline": "baseline (mask 1)",
    "lambda_0.01": "PeLAP-A, λ = 0.01",
    "lambda_0": "PeLAP-A, λ = 0",
}
HEADER = (
    "run", "diffusion loss", "… with zeros for the latent", "reconstruction error",
    "… through the mask", "mean mask", "latent std at the denoiser", "verdict",
)  # fmt: skip
PAPER = (
    ("*paper, baseline*", "*0.0240*", "", "*24.67*", "", "*1*", "", ""),
    ("*paper, λ = 0.01*", "*0.0236*", "", "*22.59*", "", "*near 0*", "", '*"sparsity collapse"*'),
)
"""What arXiv 2606.23086 reports."""


def table(runs: dict[str, Any]) -> str:
    """A row a run, and the paper's."""
    rows = [[LABELS[name], *_cells(runs[name]["evaluation"])] for name in LABELS]
    return markdown(HEADER, [*rows, *PAPER])


def _cells(evaluation: dict[str, Any]) -> list[str]:
    return [
        f"{evaluation['diffusion_loss']:.4f}", f"{evaluation['zero_latent_diffusion_loss']:.4f}",
        f"{evaluation['reconstruction_mse_sum']:.2f}",
        f"{evaluation['masked_reconstruction_mse_sum']:.0f}",
        f"{fmean(evaluation['mask_mean']):.4f}", f"{fmean(evaluation['masked_latent_std']):.4f}",
        evaluation["collapse"]["verdict"],
    ]  # fmt: skip


def summarise(runs: Path, output: Path) -> None:
    """paper_small.json, the tables of both README.md and the figures of the runs' report."""
    content = read_runs({name: runs / name for name in LABELS})
    machine = content["runs"]["baseline"]["evaluation"]["machine"]
    write_experiment(output / "paper_small.json", __doc__, content, machine)
    for readme in (output / "README.md", output.parents[1] / "README.md"):
        put_table(readme, "table", table(content["runs"]))
    (output / "figures").mkdir(exist_ok=True)
    for figure in sorted((runs / "figures").glob("*.png")):
        write_whole(output / "figures" / figure.name, figure.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="what `pelap reproduce` wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    options = parser.parse_args()
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
