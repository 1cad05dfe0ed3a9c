"""What README and docs say is what the committed results hold."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "paper_small"
RUNS = ("baseline", "lambda_0.01", "lambda_0")


def evaluation(run: str) -> dict:
    return json.loads((RESULTS / run / "evaluation.json").read_text())


def table_row(result: dict) -> str:
    """A run's row of the README's table."""
    mask = sum(result["mask_mean"]) / len(result["mask_mean"])
    std = sum(result["masked_latent_std"]) / len(result["masked_latent_std"])
    return (
        f"{result['diffusion_loss']:.4f} | {result['zero_latent_diffusion_loss']:.4f} | "
        f"{result['reconstruction_mse_sum']:.2f} | {result['masked_reconstruction_mse_sum']:.0f} | "
        f"{mask:.4f} | {std:.4f} | {result['collapse']['verdict']} |"
    )


@pytest.mark.parametrize("page", ["README.md", "results/paper_small/README.md"])
@pytest.mark.parametrize("run", RUNS)
def test_table_holds_the_committed_numbers(page: str, run: str):
    assert table_row(evaluation(run)) in (ROOT / page).read_text()


def test_evidence_of_the_collapse():
    collapsed = evaluation("lambda_0.01")
    assert max(collapsed["mask_mean"]) < 0.01
    assert collapsed["masked_reconstruction_mse_sum"] >= 10 * collapsed["reconstruction_mse_sum"]
    assert collapsed["num_pictures"] == 10_000


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("results/*/README.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} → {target}"
