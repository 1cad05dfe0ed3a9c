"""Check that README.md, docs/ and results/ hold together: `make docs-check`.

Links lead somewhere, modules that a page names exist, an experiment in results/ is a README, one
JSON and figures, and every table on a page holds what that JSON says. Prints what does not, and
exits 1 then.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
RESULTS = ROOT / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))

LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
MODULE = re.compile(r"\bpelap((?:\.[a-z_]\w*)+)")
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|\w+\.py)`")
IMPORT = re.compile(r"from pelap([.\w]*) import (\([^)]*\)|[^\n;\"]+)")


def pages() -> list[Path]:
    """Every page that people read."""
    found = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    return found + sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("results/*/README.md")])


def broken_links() -> Iterator[str]:
    """Relative links to files that are not there."""
    for page in pages():
        for target in LINK.findall(page.read_text()):
            if not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)}: no {target}"


def unknown_modules() -> Iterator[str]:
    """Names below `pelap.` that are no module and no name in one, and source files not there."""
    for page in pages():
        text, name = page.read_text(), page.relative_to(ROOT)
        for dotted in sorted({found.strip(".") for found in MODULE.findall(text)}):
            if not _is_defined(dotted.split(".")):
                yield f"{name}: no pelap.{dotted}"
        for module, names in IMPORT.findall(text):
            for wanted in re.findall(r"\w+", names):
                if not _is_defined([*module.split(".")[1:], wanted]):
                    yield f"{name}: no {wanted} in pelap{module}"
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in sorted(set(FILE.findall(text))):
        if not any((folder / path).exists() for folder in (ROOT, SOURCE / "pelap")):
            yield f"docs/architecture.md: no {path}"


def _is_defined(parts: list[str]) -> bool:
    """Whether these parts below pelap lead to a module, or to a name that its text mentions."""
    place = SOURCE / "pelap"
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").exists():
            rest = parts[index + 1 :]
            return not rest or _mentions(place / f"{part}.py", rest[0])
        else:
            return _mentions(place / "__init__.py", part)
    return True


def _mentions(file: Path, name: str) -> bool:
    return file.exists() and re.search(rf"\b{re.escape(name)}\b", file.read_text()) is not None


def untidy_results() -> Iterator[str]:
    """Experiments that are not a README, one JSON with its command and machine, and figures."""
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        names = {path.name for path in folder.iterdir()}
        wanted = {"README.md", f"{folder.name}.json"}
        if not wanted <= names <= wanted | {"figures"}:
            yield f"results/{folder.name} holds {', '.join(sorted(names))}"
        elif missing := {"command", "machine"} - set(experiment(folder.name)):
            yield f"results/{folder.name}/{folder.name}.json has no {', '.join(sorted(missing))}"
        for file in folder.glob("figures/**/*"):
            if file.is_file() and file.suffix != ".png":
                yield f"results/{folder.name}: {file.name} is no PNG"


def experiment(name: str) -> dict[str, Any]:
    """What an experiment measured."""
    return json.loads((RESULTS / name / f"{name}.json").read_text())


def tables() -> Iterator[tuple[str, str]]:
    """Pages, with a table that each must hold."""
    import analysis_cost
    import budget
    import cifar_pruned
    import collapse
    import criteria
    import headline
    import kodak
    import paper_small
    import prompts
    import recovery
    import reliability
    import sampling
    import shape_targets
    import width

    found = experiment("paper_small")["runs"]
    for page in ("README.md", "results/paper_small/README.md"):
        yield page, paper_small.table(found)
    for page in ("results/collapse/README.md", "docs/collapse.md"):
        yield page, collapse.quality_table(experiment("collapse"))
    found = experiment("criteria")["units"]
    for table in (
        criteria.reconstruction_table(found, "kl16_small"),
        criteria.reconstruction_table(found, "paper16"),
        criteria.fill_table(found),
        criteria.sample_table(found),
        criteria.recovery_table(found),
    ):
        yield "results/criteria/README.md", table
    yield "results/kodak/README.md", kodak.loss_table(experiment("kodak")["analyses"])
    found = experiment("budget")
    for name in budget.RECONSTRUCTIONS.values():
        yield "results/budget/README.md", budget.reconstruction_table(found[name])
    yield "results/budget/README.md", budget.sample_table(found["denoisers"])
    found = experiment("headline")
    for page in ("README.md", "results/headline/README.md"):
        yield page, headline.quality_table(found["units"], found["time"])
    yield "results/headline/README.md", headline.speed_table(found["time"])
    found = experiment("cifar-pruned")
    units = [*found["units"].values()]
    yield "results/cifar-pruned/README.md", cifar_pruned.table(units, found["time"])
    for page in ("README.md", "results/cifar-pruned/README.md"):
        yield page, cifar_pruned.few_steps_table(units, found["time"])
    found = experiment("analysis-cost")
    yield "results/analysis-cost/README.md", analysis_cost.table(found["compared"])
    yield "results/analysis-cost/README.md", analysis_cost.plan_table(found["planned"])
    found = experiment("width")
    yield "docs/prune.md", width.table(found["narrowed"])
    for page in ("results/width/README.md", "docs/prune.md"):
        yield page, shape_targets.table(found["shape_targets"]["models"])
    yield "results/sampling/README.md", sampling.table(sampling.rows_of(experiment("sampling")))
    yield "results/prompts/README.md", prompts.table(experiment("prompts")["models"])
    yield "results/reliability/README.md", reliability.table(experiment("reliability")["counts"])
    for page in ("results/recovery/README.md", "docs/recover.md"):
        yield page, recovery.table(experiment("recovery")["tried"])


def wrong_tables() -> Iterator[str]:
    """Tables that do not say what was measured."""
    for page, table in tables():
        text = (ROOT / page).read_text()
        for line in table.strip().splitlines():
            if line not in text:
                yield f"{page}: no line\n    {line}"


def claims() -> Iterator[tuple[str, bool]]:
    """What the pages say in words, with whether the figures bear it out."""
    collapsed = experiment("paper_small")["runs"]["lambda_0.01"]["evaluation"]
    error, masked = (collapsed[f"{name}reconstruction_mse_sum"] for name in ("", "masked_"))
    yield "the paper's mask closes", max(collapsed["mask_mean"]) < 0.01
    yield "a closed mask cannot be decoded", masked >= 10 * error
    yield "the comparison is on 10,000 pictures", collapsed["num_pictures"] == 10_000
    yield from _claims_of_the_collapse()
    yield "criteria has 390 measurements", len(experiment("criteria")["units"]) == 390
    yield "kodak has three analyses", len(experiment("kodak")["analyses"]) == 3
    yield from _claims_of_the_headline()
    ways = experiment("sampling")["ways"]
    yield "a sampler is fast and good enough", any(way["fast_and_good_enough"] for way in ways)


def _claims_of_the_collapse() -> Iterator[tuple[str, bool]]:
    import collapse

    found = collapse.evaluations(experiment("collapse"))
    verdicts = {name: {one["collapse"]["verdict"] for one in ones} for name, ones in found.items()}
    yield "six settings of three seeds", [len(ones) for ones in found.values()] == [3] * 6
    for weight in ("0", "0.001", "0.01", "0.1"):
        every = verdicts[f"objective.sparsity_weight={weight}"]
        yield f"λ = {weight} collapses", every == {"collapsed"}
    yield "the baseline shrinks or collapses", verdicts["baseline"] <= {"shrunken", "collapsed"}
    yield "pelap is healthy", verdicts["pelap"] == {"healthy"}
    numbers = [
        one["quality"]["FD-ResNet20"]["num_pictures"] for ones in found.values() for one in ones
    ]
    yield "collapse is judged by 5,000 samples or more", min(numbers) >= 5000


def _claims_of_the_headline() -> Iterator[tuple[str, bool]]:
    from headline import of_way

    found = experiment("headline")
    units = found["units"]
    yield "the headline draws 5,000 samples", min(one["num_samples"] for one in units) >= 5000
    for name, most in (("macs", 0.56), ("latent_bytes", 0.5)):
        both, unpruned = (of_way(units, way, name)[0] for way in ("both", "unpruned"))
        yield f"both need at most {most:.0%} of {name}", both <= most * unpruned
    for name in ("fd_resnet20", "fd_resnet20_to_unpruned_reconstructions"):
        both, unpruned = (
            {one["seed"]: one[name] for one in units if one["way"] == way}
            for way in ("both", "unpruned")
        )
        yield f"{name} of three seeds", len(both) == 3
        near = all(distance <= 1.26 * unpruned[seed] for seed, distance in both.items())
        yield f"{name} within 26 % of the unpruned", near
    ratios = [one["ratio"] for one in found["time"]["both-50"]["ratios"]]
    yield "both sample 1.5 times as many pictures", max(ratios) >= 1.5


def main() -> int:
    """Print every fault; 1 if there are any."""
    faults = [*broken_links(), *unknown_modules(), *untidy_results(), *wrong_tables()]
    faults += [f"not so: {claim}" for claim, is_true in claims() if not is_true]
    for fault in faults:
        print(fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
