"""Evidence for budgets: 16 latent channels reduced to 12, 8 and 4, beside all that could rival it.

    python benchmarks/budget.py --runs runs/budget --output results/budget

Autoencoders first, all for the same number of steps: gates of every kind, from scratch with as many
channels, unpruned. Then denoisers on the cached latents of those with 8 channels. What is done is
not done again, so the command can be interrupted.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evidence import Trial
from pelap.config import EvaluationConfig, GateConfig, RunConfig
from pelap.presets import kl16_small
from pelap.run_folder import RunFolder, write_whole

SEEDS = (42, 43, 44)
BUDGETS = (12, 8, 4)
DENOISED = 8
NUM_RANDOM = 3


def autoencoders() -> dict[str, RunConfig]:
    """Configs by name: nested needs one training, every other gate one a budget."""
    base = _base()
    open_gate = GateConfig(kind="open")
    gates = {"top_k": base.gate, "hard_concrete": hard_concrete()}
    found = {"unpruned_16": replace(base, gate=open_gate)}
    for budget in BUDGETS:
        network = replace(base.network, latent_channels=budget)
        found[f"scratch_{budget}"] = replace(base, network=network, gate=open_gate)
        for kind, gate in gates.items():
            found[f"{kind}_{budget}"] = replace(base, gate=replace(gate, budget=budget))
    nested = replace(base.gate, kind="nested", full_fraction=0.5)
    return found | {"nested_16": replace(base, gate=nested)}


def hard_concrete() -> GateConfig:
    """Opened wider and hardened sooner than top-k: its noise costs training time while it lasts."""
    gate = _base().gate
    return replace(
        gate, kind="hard_concrete", initial_score=5.0, harden_at=0.2, learning_rate_factor=60.0
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
        f"scratch_{DENOISED}": replace(unpruned, network=network),
        f"hard_concrete_{DENOISED}": replace(base, gate=replace(gate, kind="hard_concrete")),
        f"top_k_{DENOISED}": replace(base, gate=gate),
        f"nested_{DENOISED}": replace(base, gate=replace(gate, kind="nested")),
        f"random_{DENOISED}": replace(base, gate=gate),
    }


def _base() -> RunConfig:
    config = kl16_small()
    return replace(
        config,
        network=replace(config.network, autoencoder="paper", denoiser_layers=1),
        data=replace(config.data, batch_size=64, num_train=19_200),
        run=replace(config.run, epochs=2, denoiser_epochs=0),
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
    from pelap.run_folder import open_run

    folder = open_run(runs / trial.folder_name)
    path = folder.path / "budget.json"
    if path.exists():
        return
    found = [asdict(one) for one in _reconstructions(trial, folder)]
    write_whole(path, (json.dumps(found, indent=2) + "\n").encode())


def _reconstructions(trial: Trial, folder: RunFolder) -> list[Reconstruction]:
    import torch

    from pelap.data import load_pictures
    from pelap.evaluation.evaluate import load_system

    config, device = trial.config, torch.device("cpu")
    system = load_system(folder, device)
    pictures = load_pictures(config.data, config.run.seed).test
    channels = config.network.latent_channels
    sets: list[tuple[str, list[int]]] = []
    if trial.name == "nested_16":
        sets += [(f"nested_{k}", list(range(k))) for k in (*BUDGETS, channels)]
    elif system.gate is not None:
        sets.append((trial.name, system.gate.kept.nonzero().flatten().tolist()))
    else:
        sets.append((trial.name, list(range(channels))))
    if trial.name == "unpruned_16":
        for budget in BUDGETS:
            for draw in range(NUM_RANDOM):
                sets.append((f"random_{budget}", random_set(trial.config.run.seed, budget, draw)))
    return [_measure_set(trial, system, pictures, name, one) for name, one in sets]


def random_set(seed: int, budget: int, draw: int) -> list[int]:
    """Channels drawn without looking, in rising order."""
    import numpy as np

    return sorted(np.random.default_rng((seed, budget, draw)).permutation(16)[:budget].tolist())


def _measure_set(
    trial: Trial, system: Any, pictures: Any, name: str, channels: list[int]
) -> Reconstruction:
    import torch

    from pelap.evaluation.channel_sets import to_mask
    from pelap.evaluation.evaluate import cache_folder
    from pelap.evaluation.quality import QualityPictures, measure_quality

    originals = pictures.fetch(torch.arange(len(pictures)))
    mask = to_mask(channels, trial.config.network.latent_channels)
    decoded = _decode_all(system, pictures, mask, trial.config)
    values = measure_quality(
        ["psnr", "ssim", "rfd"],
        QualityPictures(originals, decoded, None),
        "resnet20",
        device=torch.device("cpu"),
        cache=cache_folder(),
        num_bootstraps=1,
    )
    return Reconstruction(
        name,
        trial.config.run.seed,
        len(channels),
        channels,
        values["psnr_db"].value,
        values["ssim"].value,
        values["rFD-ResNet20"].value,
        len(originals),
    )


def _decode_all(system: Any, pictures: Any, mask: Any, config: RunConfig) -> Any:
    import torch

    from pelap.data import to_batch
    from pelap.sampling import to_uint8
    from pelap.training.step import make_draws

    parts, device = [], torch.device("cpu")
    with torch.no_grad():
        for index, part in enumerate(torch.arange(len(pictures)).split(250)):
            images = to_batch(pictures.fetch(part), device)
            noise = make_draws(config, len(part), "validation", index, device, seed=0).latent_noise
            latents = system.encode(images, noise).latents
            parts.append(to_uint8(system.decode(latents * mask[:, None, None])))
    return torch.cat(parts)


def save_random_model(trial: Trial, runs: Path) -> None:
    """The unpruned model with a hardened gate over random channels, for `--run.autoencoder`."""
    import torch

    from pelap.latent import ImportancePredictor, TopKGate
    from pelap.sampling import load_pipeline
    from pelap.training.checkpoint import write_folder

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
