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


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def collapse_evaluations() -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for path in sorted((ROOT / "results" / "collapse" / "runs").glob("*/evaluation.json")):
        name = path.parent.name.split("-seed=")[0]
        found.setdefault(name, []).append(json.loads(path.read_text()))
    return found


def test_collapse_table_is_what_was_measured(benchmarks: None):
    from collapse import HEADER, _cells, label
    from evidence import markdown

    found = collapse_evaluations()
    assert len(found) == 6
    for page in ("results/collapse/README.md", "docs/collapse.md"):
        text = (ROOT / page).read_text()
        for name, evaluations in found.items():
            row = markdown(HEADER, [[label(name), *_cells(evaluations)]]).splitlines()[-1]
            assert row in text, (page, name)


def test_verdicts_of_the_evidence():
    verdicts = {
        name: {evaluation["collapse"]["verdict"] for evaluation in evaluations}
        for name, evaluations in collapse_evaluations().items()
    }
    for weight in ("0", "0.001", "0.01", "0.1"):
        assert verdicts[f"objective.sparsity_weight={weight}"] == {"collapsed"}
    assert verdicts["baseline"] <= {"shrunken", "collapsed"}
    assert verdicts["pelap"] == {"healthy"}
    for evaluations in collapse_evaluations().values():
        assert len(evaluations) == 3
        for evaluation in evaluations:
            assert evaluation["quality"]["FD-ResNet20"]["num_pictures"] >= 5000


def test_criteria_tables_are_what_was_measured(benchmarks: None):
    from criteria import fill_table, reconstruction_table, recovery_table, sample_table

    found = json.loads((ROOT / "results" / "criteria" / "criteria.json").read_text())
    text = (ROOT / "results" / "criteria" / "README.md").read_text()
    assert len(found) == 390
    assert reconstruction_table(found, "kl16_small") in text
    assert reconstruction_table(found, "paper16") in text
    assert fill_table(found) in text
    assert sample_table(found) in text
    assert recovery_table(found) in text


def test_kodak_table_is_what_was_measured(benchmarks: None):
    from kodak import loss_table

    found = json.loads((ROOT / "results" / "kodak" / "kodak.json").read_text())
    assert len(found) == 3
    assert loss_table(found) in (ROOT / "results" / "kodak" / "README.md").read_text()


def test_budget_tables_are_what_was_measured(benchmarks: None):
    from budget import _reconstruction_table, _sample_table

    found = json.loads((ROOT / "results" / "budget" / "budget.json").read_text())
    text = (ROOT / "results" / "budget" / "README.md").read_text()
    for name in ("reconstructions", "reconstructions_long", "reconstructions_longest"):
        assert _reconstruction_table(found[name]) in text
    assert _sample_table(found["denoisers"]) in text


def test_headline_tables_are_what_was_measured(benchmarks: None):
    from headline import quality_table, speed_table

    found = json.loads((ROOT / "results" / "headline" / "headline.json").read_text())
    text = (ROOT / "results" / "headline" / "README.md").read_text()
    assert quality_table(found["units"], found["time"]) in text
    assert quality_table(found["units"], found["time"]) in (ROOT / "README.md").read_text()
    assert speed_table(found["time"]) in text
    for one in found["units"]:
        assert one["num_samples"] >= 5000


def test_what_the_headline_holds(benchmarks: None):
    from headline import of_way

    found = json.loads((ROOT / "results" / "headline" / "headline.json").read_text())
    units = found["units"]
    for name, most in (("macs", 0.56), ("latent_bytes", 0.5)):
        assert of_way(units, "both", name)[0] <= most * of_way(units, "unpruned", name)[0]
    for name in ("fd_resnet20", "fd_resnet20_to_unpruned_reconstructions"):
        both, unpruned = (
            {one["seed"]: one[name] for one in units if one["way"] == way}
            for way in ("both", "unpruned")
        )
        assert len(both) == 3
        assert all(distance <= 1.26 * unpruned[seed] for seed, distance in both.items())
    ratios = [one["ratio"] for one in found["time"]["both-50"]["ratios"]]
    assert max(ratios) >= 1.5


def test_width_table_is_what_was_measured(benchmarks: None):
    from width import table

    found = json.loads((ROOT / "results" / "width" / "width.json").read_text())
    assert table(found["narrowed"]) in (ROOT / "docs" / "prune.md").read_text()


def test_sampling_table_is_what_was_measured(benchmarks: None):
    from sampling import Row, table

    found = json.loads((ROOT / "results" / "sampling" / "sampling.json").read_text())
    rows = [
        Row(tuple(way["way"]), way["distances"], way["losses"], way["speedups"])
        for way in found["ways"]
    ]
    assert table(rows) in (ROOT / "results" / "sampling" / "README.md").read_text()
    assert any(way["fast_and_good_enough"] for way in found["ways"])


def test_recovery_table_is_what_was_measured(benchmarks: None):
    from recovery import table

    folder = ROOT / "results" / "recovery"
    found = json.loads((folder / "recovery.json").read_text())
    for page in (folder / "README.md", ROOT / "docs" / "recover.md"):
        assert table(found["tried"]) in page.read_text()
