"""Evidence for what the collapse is: the paper's objective at several λ, its baseline, and ours.

    python benchmarks/collapse.py --output results/collapse [--runs runs/collapse]

Every run sees the same pictures for the same number of steps, three seeds each. What is done is not
done again, so the command can be interrupted. Writes collapse.json, the figures and a table.
"""

from dataclasses import replace

from pelap.config import RunConfig
from pelap.presets import as_baseline, paper_small, pelap_small

SEEDS = (42, 43, 44)
LAMBDAS = (0.0, 0.001, 0.01, 0.1)


def trials() -> dict[str, RunConfig]:
    """Configs by trial name: half of paper_small's autoencoder, two epochs, a higher rate."""
    paper = _short(paper_small())
    ours = _short(pelap_small())
    ours = replace(ours, run=replace(ours.run, denoiser_epochs=ours.run.epochs))
    found = {"baseline": as_baseline(paper)}
    for weight in LAMBDAS:
        objective = replace(paper.objective, sparsity_weight=weight)
        found[f"objective.sparsity_weight={weight:g}"] = replace(paper, objective=objective)
    return found | {"pelap": ours}


def _short(config: RunConfig) -> RunConfig:
    return replace(
        config,
        network=replace(config.network, autoencoder_channels=16, denoiser_channels=32),
        optimizer=replace(config.optimizer, learning_rate=1e-3, final_learning_rate=5e-5),
        run=replace(config.run, epochs=2, channels_last=False),
    )
