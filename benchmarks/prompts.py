"""Does a pruned model still do what it is told? Shapes by a small Stable Diffusion and a PixArt.

    python benchmarks/prompts_model.py --output runs/prompts/original
    python benchmarks/prompts_model.py --output runs/prompts/pixart --like runs/prompts/original
    python benchmarks/prompts.py --runs runs/prompts --output results/prompts

Prunes each model to shares of its MACs, with and without half its latents, recovers it from
captions, from prompts alone, unconditionally, and with units chosen at random; a judge reads
what its pictures show. What is done is not done again; --only N takes the first N cases.
"""

import argparse
import json
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from evidence import for_each, markdown, plus_minus, put_table, write_experiment
from pelap.core.files import write_whole

STEPS = 800
SEEDS = (0, 1, 2)
GUIDANCES = (1.0, 4.0)
NUM_STEPS = 25
NUM_PRUNED_ON = 256
TIMES_HELD_OUT = 8
KINDS = ("captions", "prompts", "unconditional", "random units")
ASPECTS = ("colour", "ground", "shape", "all")
NAMES = {"original": "Stable Diffusion", "pixart": "PixArt-α"}
LABELS = {
    "original": "unpruned",
    "pruned": "pruned: half the latents, MACs 0.55",
    "captions": "recovered from captions",
    "prompts": "recovered from prompts alone",
    "unconditional": "recovered unconditionally",
    "random units": "random units, recovered from captions",
}


@dataclass(frozen=True)
class Case:
    """One model."""

    kind: str
    """original, pruned, or what it is recovered from."""
    macs: float = 1.0
    channels: int = 8
    seed: int = 0

    model: str = "original"
    """Folder of the unpruned one: original is the Stable Diffusion, pixart the transformer."""

    @property
    def pruned_name(self) -> str:
        """Of the folder that recovery begins with."""
        kind = "pruned-random" if self.kind == "random units" else "pruned"
        return self._named("pruned-prompts" if self.kind == "prompts" else kind)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.model if self.kind == "original" else self._named(self.kind.replace(" ", "-"))

    def _named(self, kind: str) -> str:
        model = "" if self.model == "original" else f"{self.model}-"
        return f"{model}{kind}-{self.macs:g}-{self.channels}-{self.seed}"


def all_cases() -> list[Case]:
    """What must hold first, and the transformer, which is trained on its own, last."""
    shapes = {"original": ((0.55, 4), (0.35, 4), (0.55, 8), (0.35, 8)), "pixart": ((0.55, 4),)}
    found = []
    for model, settings in shapes.items():
        found.append(Case("original", model=model))
        for macs, channels in settings:
            kinds = product(("pruned", *KINDS), SEEDS)
            found += [Case(kind, macs, channels, seed, model) for kind, seed in kinds]
    return found


def write_pictures(runs: Path) -> Path:
    """Pictures of the seen scenes with captions, and the captions alone."""
    from PIL import Image

    from shapes import SEEN, draw

    root = runs / "pictures"
    if (root / "prompts.txt").exists():
        return root
    for split, num, seed in (("train", 1950, 11), ("test", 195, 12)):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        scenes = [SEEN[index % len(SEEN)] for index in range(num)]
        drawn = (draw(scenes, seed) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        rows = []
        for index, (scene, picture) in enumerate(zip(scenes, drawn, strict=True)):
            Image.fromarray(picture).save(folder / f"{index:05}.png")
            rows.append(json.dumps({"file_name": f"{index:05}.png", "text": scene.caption}) + "\n")
        write_whole(folder / "metadata.jsonl", "".join(rows).encode())
    write_whole(root / "prompts.txt", "".join(f"{scene.caption}\n" for scene in SEEN).encode())
    return root


def run(case: Case, runs: Path) -> None:
    """Prune, recover and judge one model, and write what it drew and how that was judged."""
    import pelap
    from shapes import SIZE

    path = runs / "judged" / f"{case.name}.json"
    if path.exists():
        return
    original, folder = runs / case.model, runs / case.name
    root = runs / "pictures"
    pictures: Any = pelap.pictures(root, SIZE)
    if case.kind == "prompts":
        pictures = pelap.prompts(root / "prompts.txt", 1000, guidance=2.0, num_steps=NUM_STEPS)
    if case.kind != "original" and not folder.exists():
        small = runs / case.pruned_name
        if not small.exists():
            pelap.prune(
                original,
                pictures,
                keep=case.channels if case.channels < 8 else None,
                rotate="pca" if case.channels < 8 else "none",
                denoiser_macs=case.macs if case.macs < 1 else None,
                denoiser_criterion="random" if case.kind == "random units" else None,
                num_pictures=NUM_PRUNED_ON,
                seed=case.seed,
            ).save(small)
        if case.kind != "pruned":
            pelap.recover(
                small,
                pictures,
                teacher=original,
                output=folder,
                steps=STEPS,
                seed=case.seed,
                num_pictures=NUM_PRUNED_ON,
                unconditional=case.kind == "unconditional",
            )
    found = {"case": vars(case), "record": pelap.open_model(folder).history[-1:]}
    write_whole(path, (json.dumps(found | judge(folder, case.seed)) + "\n").encode())


def judge(folder: Path, seed: int) -> dict[str, Any]:
    """Shares of colour, ground, shape and all that are as told, by guidance and kind of scene."""
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from PIL import Image

    from prompts_model import sample_told
    from shapes import HELD_OUT, SEEN, accuracy

    pipeline = DiffusionPipeline.from_pretrained(folder)
    found: dict[str, Any] = {}
    for guidance, (name, scenes) in product(
        GUIDANCES, (("seen", SEEN), ("held_out", HELD_OUT * TIMES_HELD_OUT))
    ):
        images = sample_told(pipeline, scenes, guidance, NUM_STEPS, seed)
        found[f"{name}_{guidance:g}"] = accuracy(images, scenes)
        row = (torch.cat(list(images[:14]), dim=2).permute(1, 2, 0) * 255).byte()
        path = folder.parent / "judged" / f"{folder.name}-{name}-{guidance:g}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(row.numpy()).save(path)
    return found


def collect(runs: Path) -> dict[str, dict[str, Any]]:
    """What was judged, by the case's name."""
    paths = sorted((runs / "judged").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def table(found: dict[str, dict[str, Any]]) -> str:
    """A row for each kind of model, mean ± spread over its seeds."""
    head = ["model", "MACs", "latents", "what", "seeds"]
    head += [f"{scenes}: {aspect}" for scenes in ("seen", "held out") for aspect in ASPECTS]
    head += ["seen: all, guidance 1", "held out: all, guidance 1", "differs", "follows"]
    rows = []
    for (model, macs, channels, kind), some in grouped(found).items():
        shares = [[one[f"{s}_4"][a] for one in some] for s in ("seen", "held_out") for a in ASPECTS]
        shares += [[one[f"{scenes}_1"]["all"] for one in some] for scenes in ("seen", "held_out")]
        denoisers = [one["record"][-1]["denoiser"] for one in some if one["record"]]
        shares.append([one["relative_error"] for one in denoisers])
        shares.append([one["followed"] for one in denoisers if one["followed"] is not None])
        row = [NAMES[model], f"{macs:g}", str(channels), kind, str(len(some))]
        rows.append(row + [plus_minus(values, 2) for values in shares])
    return markdown(head, rows)


def grouped(found: dict[str, dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """What was judged by model, MACs, latents and kind, in the order of the cases."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    order = ("original", "pruned", *KINDS)
    for one in found.values():
        case = Case(**one["case"])
        groups.setdefault((case.model, case.macs, case.channels, case.kind), []).append(one)
    keys = sorted(groups, key=lambda k: (k[0], -k[1], k[2], order.index(k[3])))
    return {key: groups[key] for key in keys}


def draw_figures(runs: Path, found: dict[str, dict[str, Any]], output: Path) -> None:
    """The same prompts by all models of one setting in rows, and the shares that are as told."""
    import numpy as np
    from PIL import Image

    from evidence_figures import draw_categories, draw_strips, save_figure
    from shapes import SIZE

    for model in NAMES:
        if model not in found:
            continue
        strips = []
        for kind in ("original", "pruned", *KINDS):
            case = Case(kind, 0.55, 4, 0, model)
            path = runs / "judged" / f"{case.name}-held_out-4.png"
            if path.exists():
                row = np.asarray(Image.open(path))
                pictures = np.stack(np.split(row, row.shape[1] // SIZE, axis=1))
                strips.append((LABELS[kind], pictures))
        save_figure(partial(draw_strips, strips), output / f"figures/{model}.png")
        panels: dict[str, dict[str, list[float]]] = {}
        for (of, macs, channels, kind), some in grouped(found).items():
            if of == model:
                name = kind if kind == "original" else f"{kind}, {macs:g}, {channels} latents"
                for scenes in ("seen", "held_out"):
                    panel = panels.setdefault(f"{scenes.replace('_', ' ')}: all as told", {})
                    panel[name] = [one[f"{scenes}_4"]["all"] for one in some]
        save_figure(partial(draw_categories, panels), output / f"figures/{model}_shares.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", type=int, help="the first so many cases")
    options = parser.parse_args()
    write_pictures(options.runs)
    for_each(partial(run, runs=options.runs), all_cases()[: options.only], options.jobs)
    found = collect(options.runs)
    if found:
        write_experiment(options.output / "prompts.json", __doc__, {"models": found})
        put_table(options.output / "README.md", "prompts", table(found))
        draw_figures(options.runs, found, options.output)


if __name__ == "__main__":
    main()
