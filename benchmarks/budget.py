"""Evidence for budgets: 16 latent channels reduced to 12, 8 and 4, beside all that could rival it.

    python benchmarks/budget.py --runs runs/budget --output results/budget

Autoencoders first, all for the same number of steps: gates of every kind, from scratch with as many
channels, unpruned. Then denoisers on the cached latents of those with 8 channels. Then all
autoencoders again for twice as many steps, and those with the fewest channels for four times as
many, with two more seeds where the first three did not tell. What is done is not done again, so
the command can be interrupted.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from evidence import (
    QUALITY,
    Trial,
    evaluate_trial,
    for_each,
    lines_of,
    markdown,
    plus_minus,
    put_table,
    read_runs,
    train_trial,
    with_seeds,
    write_experiment,
)
from evidence_figures import draw_categories, draw_lines, draw_strips, save_figure
from pelap.config.presets import kl16_small
from pelap.config.run_config import EvaluationConfig, GateConfig, RunConfig
from pelap.config.run_folder import RunFolder
from pelap.core.files import write_folder, write_whole
from pelap.method.losses import psnr_db

SEEDS = (42, 43, 44)
BUDGETS = (12, 8, 4)
DENOISED = 8
NUM_RANDOM = 3
NUM_MEASURED = 1000
SHORT, LONG, LONGEST = 2, 4, 8
"""Epochs of the autoencoders; the denoisers build on the short ones."""
CLOSE, MORE_SEEDS = ("scratch_4", "top_k_4", "hard_concrete_4"), (45, 46)
"""What is trained longest with more seeds."""
KEPT_CURVES = ("step", "epoch", "total_loss", "reconstruction_loss", "diffusion_loss")
LEFT_OUT = ("mask_histogram", "mask_mean_by_class")
"""Of an evaluation: most of its size."""
FOLDERS = {SHORT: "autoencoders", LONG: "autoencoders_long", LONGEST: "autoencoders_longest"}


def autoencoders(epochs: int = SHORT) -> dict[str, RunConfig]:
    """Configs by name: nested needs one training, every other gate one a budget."""
    base = _base(epochs)
    open_gate = GateConfig(kind="open")
    gates = {"top_k": base.gate, "hard_concrete": hard_concrete(epochs)}
    found = {"unpruned_16": replace(base, gate=open_gate)}
    for budget in BUDGETS if epochs != LONGEST else BUDGETS[-1:]:
        network = replace(base.network, latent_channels=budget)
        found[f"scratch_{budget}"] = replace(base, network=network, gate=open_gate)
        for kind, gate in gates.items():
            found[f"{kind}_{budget}"] = replace(base, gate=replace(gate, budget=budget))
    full_fraction = 0.5 if epochs == SHORT else 0.25  # as with `hard_concrete`, learned on the way
    nested = replace(base.gate, kind="nested", full_fraction=full_fraction)
    return found | {"nested_16": replace(base, gate=nested)}


def trials(epochs: int = SHORT) -> list[Trial]:
    """Every autoencoder that is trained for so long, with every seed."""
    configs = autoencoders(epochs)
    found = with_seeds(configs, SEEDS)
    if epochs == LONGEST:
        found += with_seeds({name: configs[name] for name in CLOSE}, MORE_SEEDS)
    return found


def hard_concrete(epochs: int = SHORT) -> GateConfig:
    """Opened wider and hardened sooner than top-k: its noise costs training time while it lasts.

    Longer trainings harden after a tenth of its steps, which the shorter ones had shown to do
    better than a fifth.
    """
    return replace(
        _base(epochs).gate,
        kind="hard_concrete",
        initial_score=5.0,
        harden_at=0.2 if epochs == SHORT else 0.1,
        learning_rate_factor=60.0,
    )


def denoisers() -> dict[str, RunConfig]:
    """Configs by name of the autoencoder trial they build on; `random_8` is the unpruned one's."""
    base = _base()
    base = replace(
        base,
        data=replace(base.data, batch_size=128, flip=False, num_train=19_200),
        run=replace(base.run, denoiser_epochs=3),
    )
    gate = replace(base.gate, budget=DENOISED)
    unpruned = replace(base, gate=GateConfig(kind="open"))
    network = replace(base.network, latent_channels=DENOISED)
    return {
        "unpruned_16": unpruned,
        f"top_k_{DENOISED}": replace(base, gate=gate),
        f"hard_concrete_{DENOISED}": replace(base, gate=replace(gate, kind="hard_concrete")),
        f"random_{DENOISED}": replace(base, gate=gate),
        f"scratch_{DENOISED}": replace(unpruned, network=network),
        f"nested_{DENOISED}": replace(base, gate=replace(gate, kind="nested")),
    }


def _base(epochs: int = SHORT) -> RunConfig:
    config = kl16_small()
    return replace(
        config,
        network=replace(config.network, autoencoder="paper", denoiser_layers=1),
        data=replace(config.data, batch_size=64, num_train=19_200),
        run=replace(config.run, epochs=epochs, denoiser_epochs=0),
        optimizer=replace(config.optimizer, ema_decay=0.99),
        evaluation=EvaluationConfig(num_samples=5000, sampler="dpm-solver++", num_steps=15),
    )


def build_on(trial: Trial, runs: Path) -> Trial:
    """The denoiser trial with its autoencoder's run filled in."""
    seed = trial.config.run.seed
    sources = {f"nested_{DENOISED}": "nested_16", f"random_{DENOISED}": "random_8"}
    source = runs / "autoencoders" / f"{sources.get(trial.name, trial.name)}-seed={seed}"
    run = replace(trial.config.run, autoencoder=str(source))
    return replace(trial, config=replace(trial.config, run=run))


@dataclass(frozen=True)
class Reconstruction:
    """What an autoencoder is worth with one set of channels."""

    name: str
    seed: int
    num_channels: int
    channels: list[int]
    psnr_db: float
    ssim: float
    rfd_resnet20: float
    num_pictures: int


def measure_autoencoder(trial: Trial, runs: Path) -> None:
    """Write budget.json into the trial's folder: one `Reconstruction` a set of channels."""
    from pelap.config.run_folder import open_run

    folder = open_run(runs / trial.folder_name)
    path = folder.path / "budget.json"
    if path.exists():
        return
    found = [asdict(one) for one in _reconstructions(trial, folder)]
    write_whole(path, (json.dumps(found, indent=2) + "\n").encode())


def _reconstructions(trial: Trial, folder: RunFolder) -> list[Reconstruction]:
    import torch

    from pelap.data.load import load_pictures
    from pelap.measure.run_sampling import load_system

    config = trial.config
    system = load_system(folder, torch.device("cpu"))
    few = replace(config.data, num_train=1)  # only the test pictures are needed
    pictures = load_pictures(few, config.run.seed).test
    originals = pictures.fetch(torch.arange(NUM_MEASURED))
    latents = _encode_all(system, originals, config)
    return [
        _measure_set(trial, system, originals, latents, name, channels)
        for name, channels in channel_sets(trial, system.gate)
    ]


def channel_sets(trial: Trial, gate: Any) -> list[tuple[str, list[int]]]:
    """What is measured of a trial's autoencoder: names and channels."""
    channels, seed = trial.config.network.latent_channels, trial.config.run.seed
    if trial.name == "nested_16":
        return [(f"nested_{k}", list(range(k))) for k in (*BUDGETS, channels)]
    if gate is not None:
        return [(trial.name, gate.kept.nonzero().flatten().tolist())]
    sets = [(trial.name, list(range(channels)))]
    if trial.name == "unpruned_16":
        sets += [
            (f"random_{budget}", random_set(seed, budget, draw))
            for budget in BUDGETS
            for draw in range(NUM_RANDOM)
        ]
    return sets


def random_set(seed: int, budget: int, draw: int) -> list[int]:
    """Channels drawn without looking, in rising order."""
    import numpy as np

    return sorted(np.random.default_rng((seed, budget, draw)).permutation(16)[:budget].tolist())


def _measure_set(
    trial: Trial, system: Any, originals: Any, latents: Any, name: str, channels: list[int]
) -> Reconstruction:
    import torch

    from pelap.core.cache import cache_home
    from pelap.measure.channel_sets import to_mask
    from pelap.measure.quality import QualityPictures, measure_quality
    from pelap.method.sampling import to_uint8

    mask = to_mask(channels, latents.shape[1])[:, None, None]
    with torch.no_grad():
        decoded = torch.cat([to_uint8(system.decode(part * mask)) for part in latents.split(250)])
    values = measure_quality(
        ["psnr", "ssim", "rfd"],
        QualityPictures(originals, decoded, None),
        "resnet20",
        device=torch.device("cpu"),
        cache=cache_home(),
        num_bootstraps=1,
    )
    seed = trial.config.run.seed
    psnr, ssim, rfd = (values[key].value for key in ("psnr_db", "ssim", "rFD-ResNet20"))
    return Reconstruction(name, seed, len(channels), channels, psnr, ssim, rfd, len(originals))


def _encode_all(system: Any, originals: Any, config: RunConfig) -> Any:
    import torch

    from pelap.data.pictures import to_batch
    from pelap.method.step import make_draws

    device, parts = torch.device("cpu"), []
    with torch.no_grad():
        for index, part in enumerate(originals.split(250)):
            noise = make_draws(config, len(part), "validation", index, device, seed=0).latent_noise
            parts.append(system.encode(to_batch(part, device), noise).latents)
    return torch.cat(parts)


def save_random_model(trial: Trial, runs: Path) -> None:
    """The unpruned model with a hardened gate over random channels, for `--run.autoencoder`."""
    import torch

    from pelap.method.gates import TopKGate
    from pelap.method.importance import ImportancePredictor
    from pelap.method.pipeline import load_pipeline

    seed = trial.config.run.seed
    target = runs / f"random_{DENOISED}-seed={seed}" / "model"
    if target.exists():
        return
    pipeline = load_pipeline(runs / trial.folder_name / "model")
    gate = TopKGate(16, adaptive=False)
    gate.mean_scores[random_set(seed, DENOISED, 0)] = 1.0
    gate.harden(DENOISED)
    with torch.no_grad():
        pipeline.register_modules(gate=gate, importance=ImportancePredictor(16))
    write_folder(target, pipeline.save_pretrained)


def measure_denoiser(trial: Trial, runs: Path) -> None:
    """Train a denoiser on the cached latents of its autoencoder, evaluate it."""
    if trial.name == f"random_{DENOISED}":
        seed = trial.config.run.seed
        (unpruned,) = with_seeds({"unpruned_16": autoencoders()["unpruned_16"]}, [seed])
        save_random_model(unpruned, runs / "autoencoders")
    trial = build_on(trial, runs)
    train_trial(trial, runs / "denoisers")
    metrics = [name for name in QUALITY if name != "ssim"]
    evaluate_trial(trial, runs / "denoisers", trial.config.evaluation, metrics)


def train_and_measure_autoencoder(trial: Trial, runs: Path) -> None:
    """Train an autoencoder, measure its reconstructions."""
    folder = runs / FOLDERS[trial.config.run.epochs]
    train_trial(trial, folder)
    measure_autoencoder(trial, folder)


RECONSTRUCTIONS = {
    SHORT: "reconstructions",
    LONG: "reconstructions_long",
    LONGEST: "reconstructions_longest",
}


def summarise(runs: Path, output: Path) -> None:
    """budget.json from what the trials measured, tables and figures from that."""
    content = collect(runs)
    evaluated = [run["evaluation"] for run in content["runs"].values() if "evaluation" in run]
    machine = evaluated[0]["machine"] if evaluated else None
    write_experiment(output / "budget.json", __doc__, content, machine)
    for epochs, name in ((SHORT, "reconstruction"), (LONG, "long"), (LONGEST, "longest")):
        table = reconstruction_table(content[RECONSTRUCTIONS[epochs]])
        put_table(output / "README.md", f"{name} table", table)
    put_table(output / "README.md", "sample table", sample_table(content["denoisers"]))
    draw(content, output / "figures")
    if content["denoisers"]:
        draw_samples(content["denoisers"], runs, output / "figures")


def collect(runs: Path) -> dict[str, Any]:
    """What the trials measured so far."""
    folders = {
        f"{name}/{trial.folder_name}": runs / name / trial.folder_name
        for epochs, name in FOLDERS.items()
        for trial in trials(epochs)
    }
    measured = {name: path for name, path in folders.items() if (path / "budget.json").exists()}
    denoised = {
        trial.folder_name: (trial, runs / "denoisers" / trial.folder_name)
        for trial in with_seeds(denoisers(), SEEDS)
        if (runs / "denoisers" / trial.folder_name / "evaluation.json").exists()
    }
    measured |= {f"denoisers/{name}": path for name, (_, path) in denoised.items()}
    found = read_runs(measured)
    samples = [
        _denoiser_figures(trial, found["runs"][f"denoisers/{name}"]["evaluation"])
        for name, (trial, _) in denoised.items()
    ]
    reconstructions = {
        RECONSTRUCTIONS[epochs]: _read_reconstructions(runs, epochs) for epochs in FOLDERS
    }
    runs_kept = {name: _shortened(run) for name, run in found["runs"].items()}
    return {**reconstructions, "denoisers": samples, **found, "runs": runs_kept}


def _shortened(run: dict[str, Any]) -> dict[str, Any]:
    """A run without the curves and tables that no figure and no page shows."""
    short = {**run, "curves": {
        split: {name: values for name, values in columns.items() if name in KEPT_CURVES}
        for split, columns in run["curves"].items()
    }}  # fmt: skip
    if "evaluation" in run:
        short["evaluation"] = {k: v for k, v in run["evaluation"].items() if k not in LEFT_OUT}
    return short


def _read_reconstructions(runs: Path, epochs: int) -> list[dict[str, Any]]:
    folders = [runs / FOLDERS[epochs] / trial.folder_name for trial in trials(epochs)]
    files = [folder / "budget.json" for folder in folders]
    return [one for file in files if file.exists() for one in json.loads(file.read_text())]


METHODS = ("scratch", "top_k", "hard_concrete", "nested", "random")


def reconstruction_table(found: list[dict[str, Any]]) -> str:
    header = ["channels", *(f"{method} PSNR, dB" for method in METHODS),
              *(f"{method} rFD" for method in METHODS)]  # fmt: skip
    rows = []
    for channels in (16, *BUDGETS):
        cells = [str(channels)]
        for key, digits in (("psnr_db", 2), ("rfd_resnet20", 2)):
            for method in METHODS:
                values = [one[key] for one in found if one["name"] == name_of(method, channels)]
                cells.append(plus_minus(values, digits))
        rows.append(cells)
    return markdown(header, rows)


def name_of(method: str, channels: int) -> str:
    """How the measurements of a method with so many channels are named."""
    return "unpruned_16" if (method, channels) == ("scratch", 16) else f"{method}_{channels}"


def _denoiser_figures(trial: Trial, evaluation: dict[str, Any]) -> dict[str, Any]:
    quality = {name: value["value"] for name, value in evaluation["quality"].items()}
    names = ("diffusion_loss", "zero_latent_diffusion_loss", "relative_error")
    return {
        "name": trial.name,
        "seed": trial.config.run.seed,
        "verdict": evaluation["collapse"]["verdict"],
        "num_samples": evaluation["sampler"]["num_samples"],
        "active_channels": evaluation["active_channels"],
        **{name: evaluation[name] for name in names},
        **quality,
    }


SAMPLE_COLUMNS = {
    "psnr_db": 2, "rFD-ResNet20": 2, "relative_error": 3, "diffusion_loss": 4, "FD-ResNet20": 2,
    "FD-ResNet20-to-reconstructions": 2, "precision-ResNet20": 3, "recall-ResNet20": 3,
}  # fmt: skip


def sample_table(samples: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(one["name"] for one in samples))
    rows = []
    for name in names:
        mine = [one for one in samples if one["name"] == name]
        cells = [plus_minus([one[key] for one in mine], d) for key, d in SAMPLE_COLUMNS.items()]
        verdicts = ", ".join(dict.fromkeys(one["verdict"] for one in mine))
        rows.append([name, str(len(mine)), *cells, verdicts])
    return markdown(["model", "seeds", *SAMPLE_COLUMNS, "verdict"], rows)


def draw(content: dict[str, Any], folder: Path) -> None:
    """Draw every figure that needs budget.json alone."""
    samples = content["denoisers"]

    def series(epochs: int, key: str) -> dict[str, dict[float, list[float]]]:
        lines: dict[str, dict[float, list[float]]] = {}
        for method in METHODS:
            for channels in sorted((16, *BUDGETS)):
                name = name_of(method, channels)
                found = content[RECONSTRUCTIONS[epochs]]
                values = [one[key] for one in found if one["name"] == name]
                if values:
                    lines.setdefault(method, {})[channels] = values
        return lines

    panels = {
        f"{title}, {steps:,} steps": series(epochs, key)
        for epochs, steps in ((SHORT, 600), (LONG, 1200))
        for title, key in (("PSNR, dB", "psnr_db"), ("rFD-ResNet20", "rfd_resnet20"))
    }
    ticks = sorted((16, *BUDGETS))
    save_figure(lambda: draw_lines(panels, "channels kept", ticks), folder / "reconstruction.png")
    curves = {"PSNR of training batches, dB (8 channels kept)": _curves(content["runs"])}
    steps = range(0, 601, 100)
    save_figure(lambda: draw_lines(curves, "steps", steps), folder / "training.png")
    names = list(dict.fromkeys(one["name"] for one in samples))
    bars = {
        title: {name: [one[key] for one in samples if one["name"] == name] for name in names}
        for title, key in (
            ("FD-ResNet20 of samples to test pictures", "FD-ResNet20"),
            ("FD-ResNet20 to the model's own reconstructions", "FD-ResNet20-to-reconstructions"),
            ("x̂0 error at 0 dB, of the latent's variance", "relative_error"),
        )
    }
    if samples:
        save_figure(lambda: draw_categories(bars), folder / "samples_quality.png")


def _curves(runs: dict[str, Any]) -> dict[str, dict[float, list[float]]]:
    shown = {name_of(m, 8): m for m in ("scratch", "top_k", "hard_concrete")}
    shown |= {"unpruned_16": "unpruned", "nested_16": "nested (all 16)"}
    lines: dict[str, dict[float, list[float]]] = {}
    for trial in trials():
        run = runs.get(f"{FOLDERS[SHORT]}/{trial.folder_name}")
        if run is not None and trial.name in shown:
            for line in lines_of(run["curves"], "train"):
                point = lines.setdefault(shown[trial.name], {}).setdefault(line["step"], [])
                point.append(psnr_db(line["reconstruction_loss"]))
    return lines


def draw_samples(samples: list[dict[str, Any]], runs: Path, folder: Path) -> None:
    """Eight samples of the first seed of every denoiser."""
    import numpy as np

    strips = []
    for name in dict.fromkeys(one["name"] for one in samples):
        run = RunFolder(runs / "denoisers" / f"{name}-seed={SEEDS[0]}")
        with np.load(run.pictures_path) as pictures:
            if not strips:
                strips.append(("test pictures", pictures["originals"][:8]))
            strips.append((f"{name}: samples", pictures["samples"][:8]))
    save_figure(lambda: draw_strips(strips), folder / "samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--output", type=Path, required=True, help="folder of the evidence")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time, a thread each (2)")
    options = parser.parse_args()
    first = partial(train_and_measure_autoencoder, runs=options.runs)
    for_each(first, trials(), options.jobs)
    second = partial(measure_denoiser, runs=options.runs)
    for_each(second, with_seeds(denoisers(), SEEDS), options.jobs)
    for epochs in (LONG, LONGEST):
        for_each(first, trials(epochs), options.jobs)
    summarise(options.runs, options.output)


if __name__ == "__main__":
    main()
