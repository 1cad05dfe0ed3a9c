"""How far a narrower denoiser is from the original with the same units masked, and why.

    python benchmarks/width.py --run runs/headline/kl16_small-seed=42 --output results/width

Sizes are root mean squares over that of the original's prediction, on noisy test latents.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch

from evidence import markdown, put_table, write_experiment
from pelap.core.seeding import generator
from pelap.measure.encoded_batches import Batches
from pelap.measure.macs import count_denoiser_macs
from pelap.models.model_pictures import load_splits
from pelap.models.opening import open_model
from pelap.pruning.narrowing import gather_evidence
from pelap.pruning.width.unit_slicing import mask_weights
from pelap.pruning.width.width_plan import WidthRequest, narrow

WIDTHS = ((16, 48), (24, 48), (32, 48), (32, 40), (16, 64))
CRITERIA = ("random", "magnitude", "taylor", "diff_pruning")
NUM_SCORED, NUM_MEASURED = 2000, 500


def noisy_latents(system: Any, batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents (N, C, h, w) of test pictures, each at a timestep (N,) of its own."""
    latents = torch.cat([batch.latents for batch in batches.of_this_process(system)])
    source = generator(0, "sampling", 0)
    steps = torch.randint(len(system.scheduler.alphas_cumprod), (len(latents),), generator=source)
    noise = torch.randn(latents.shape, generator=source)
    return system.scheduler.add_noise(latents, noise, steps), steps


@torch.no_grad()
def measure(original: Any, found: Any, noisy: torch.Tensor, steps: torch.Tensor) -> dict[str, Any]:
    """Differences of one narrower denoiser."""
    masked = mask_weights(copy.deepcopy(original), found.layout, found.kept)
    shared = copy.deepcopy(found.denoiser)
    shared.time_proj, shared.time_embedding = original.time_proj, original.time_embedding
    given, of_masked, of_slice, with_time = (
        network(noisy, steps).sample for network in (original, masked, found.denoiser, shared)
    )
    size = given.square().mean().sqrt()

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).square().mean().sqrt() / size)

    return {
        "widths": list(found.shape.widths),
        "criterion": found.criterion,
        "macs": found.shape.macs / count_denoiser_macs(original),
        "kept_score": found.kept_score,
        "time_embedding": found.differences.get("time embedding", 0.0),
        "masked_to_original": apart(of_masked, given),
        "slice_to_original": apart(of_slice, given),
        "slice_to_masked": apart(of_slice, of_masked),
        "slice_to_masked_by_statistics": apart(with_time, of_masked),
        "slice_to_masked_by_time_embedding": apart(of_slice, with_time),
    }


def table(found: list[dict[str, Any]]) -> str:
    """What pruning by Taylor and at random costs before any recovery."""
    rows = [
        [
            ", ".join(map(str, one["widths"])), f"{one['macs']:.2f}", one["criterion"],
            f"{one['masked_to_original']:.2f}", f"{one['slice_to_original']:.2f}",
            f"{one['slice_to_masked_by_statistics']:.3f}",
            f"{one['slice_to_masked_by_time_embedding']:.3f}", f"{one['time_embedding']:.2f}",
        ]
        for one in sorted(found, key=lambda one: (-one["macs"], one["criterion"]))
        if one["criterion"] in ("random", "magnitude", "taylor")
    ]  # fmt: skip
    header = ["widths", "MACs", "criterion", "masked to original", "slice to original",
              "slice to masked: statistics", "… time embedding", "misfit of its layer"]  # fmt: skip
    return (
        "Sizes for a trained `kl16_small`, whose levels are 32 and 64 wide: root mean squares over "
        f"that of the original's prediction, {NUM_MEASURED} test latents, no recovery "
        "([results/width](../results/width/width.json)):\n\n" + markdown(header, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    model = open_model(options.run)
    assert model.config is not None
    assert model.denoiser is not None
    splits = load_splits(model, model.config)
    scored = Batches(splits.train, torch.arange(NUM_SCORED), 32, 0)
    system = model.measured_system()
    noisy, steps = noisy_latents(system, Batches(splits.test, torch.arange(NUM_MEASURED), 50, 0))
    found = []
    for criterion in CRITERIA:
        evidence = gather_evidence(model, WidthRequest(macs=1, criterion=criterion), scored)
        for widths in WIDTHS:
            request = WidthRequest(widths=widths, criterion=criterion)
            narrower = narrow(model.denoiser, request, evidence, 1, lambda _: 1.0)
            found.append(measure(model.denoiser, narrower, noisy, steps))
    put_table(Path("docs/prune.md"), "sizes", table(found))
    result = {"num_scored": NUM_SCORED, "num_measured": NUM_MEASURED, "narrowed": found}
    write_experiment(options.output / "width.json", __doc__, result)


if __name__ == "__main__":
    main()
