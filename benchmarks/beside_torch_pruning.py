"""How a UNet narrowed by pelap draws beside one narrowed by Torch-Pruning within the same MACs.

    python benchmarks/prompts_model.py --output runs/prompts/original
    python benchmarks/beside_torch_pruning.py --runs runs/prompts --output results/torch-pruning

On the small Stable Diffusion of prompts_model.py, all its latents kept. Every way gets the same
training with captions, and a judge reads what its pictures show. What is done is not done again.
"""

import argparse
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

import pelap
from adapters import Training, as_pictures, scenes
from evidence import for_each, markdown, plus_minus, put_table, write_experiment
from pelap.core.files import write_whole
from pelap.measure.macs import count_call_macs
from prompts import NUM_PRUNED_ON, NUM_STEPS, SEEDS, TIMES_HELD_OUT, write_pictures
from prompts_model import sample_told
from shapes import HELD_OUT, SEEN, SIZE, accuracy, draw

MACS = (0.55, 0.35)
STEPS, RATE, GUIDANCE = 800, 1e-3, 4.0
NUM_COMPARED = 65
LEVELS = range(50, 1000, 100)
NUM_HALVINGS = 12
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    "taylor": torch_pruning.importance.GroupTaylorImportance,
    "random": torch_pruning.importance.RandomImportance,
}
TOOLS = ("pelap", "Torch-Pruning")
SHARES = ("seen", "held_out")
HEAD = ["at most", "tool", "units", "seeds", "MACs", "parameters", "differs", "after training",
        "seen: all as told", "held out: all as told"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One narrowed UNet."""

    tool: str
    criterion: str
    macs: float
    """The most that it may have, as a share of the original's."""
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.tool}-{self.criterion}-{self.macs:g}-{self.seed}"


def all_cases() -> list[Case]:
    """One share after the other, and one seed after the other."""
    orders = product(MACS, SEEDS, IMPORTANCES, TOOLS)
    return [Case(tool, criterion, macs, seed) for macs, seed, criterion, tool in orders]


def count(unet: nn.Module) -> int:
    """MACs of one picture's step."""
    with torch.no_grad():
        return count_call_macs(lambda: unet(**inputs(unet)))


def inputs(unet: Any) -> dict[str, Tensor]:
    """Of one call, for one picture."""
    side, channels = unet.config.sample_size, unet.config.in_channels
    return {
        "sample": torch.zeros(1, channels, side, side), "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 8, unet.config.cross_attention_dim),
    }  # fmt: skip


def narrow_with_pelap(case: Case, original: Path, pictures: Any) -> nn.Module:
    """The UNet of what `pelap prune --denoiser-macs` makes."""
    small = pelap.prune(
        original, pictures, denoiser_macs=case.macs, denoiser_criterion=case.criterion,
        num_pictures=NUM_PRUNED_ON, seed=case.seed,
    )  # fmt: skip
    denoiser = small.loaded().denoiser
    assert denoiser is not None
    return denoiser


def narrow_with_torch_pruning(case: Case, training: Training) -> nn.Module:
    """The widest UNet within the share, by halving the interval of its ratio."""
    torch.manual_seed(case.seed)
    unet = training.pipeline.unet
    most = case.macs * count(unet)
    slopes = taylor_slopes(training) if case.criterion == "taylor" else None
    low, high, best = 0.0, 0.9, None
    for _ in range(NUM_HALVINGS):
        ratio = (low + high) / 2
        found = cut(unet, IMPORTANCES[case.criterion](), ratio, slopes)
        if count(found) <= most:
            best, high = found, ratio
        else:
            low = ratio
    assert best is not None
    return best


def taylor_slopes(training: Training) -> list[Tensor]:
    """Of the noise loss on as many pictures as pelap sees."""
    unet = deepcopy(training.pipeline.unet)
    predict = partial(predict_with, unet)
    rows = torch.arange(NUM_PRUNED_ON)
    for timestep in LEVELS:
        noisy, noise, timesteps = noised(training, rows, timestep)
        found = predict(noisy, timesteps, training.words[rows % len(SEEN)], rows)
        (found - noise).square().mean().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in unet.parameters()]


def cut(unet: Any, importance: Any, ratio: float, slopes: list[Tensor] | None) -> nn.Module:
    """This share of every layer's width, in Torch-Pruning's groups; heads get thinner."""
    found: Any = deepcopy(unet)
    for parameter, slope in zip(found.parameters(), slopes or (), strict=False):
        parameter.grad = slope.clone()
    attentions = [layer for layer in found.modules() if isinstance(layer, Attention)]
    heads: dict[Any, int] = {
        part: one.heads for one in attentions for part in (one.to_q, one.to_k, one.to_v)
    }
    example: Any = inputs(found)
    torch_pruning.pruner.BasePruner(
        found, example, importance=importance, pruning_ratio=ratio,
        ignored_layers=[found.conv_out], num_heads=heads, prune_head_dims=True,
        forward_fn=lambda model, given: model(**given).sample,
    ).step()  # fmt: skip
    sampling: list[Any] = [
        layer for layer in found.modules() if isinstance(layer, Downsample2D | Upsample2D)
    ]
    for layer in sampling:
        layer.channels, layer.out_channels = layer.conv.in_channels, layer.conv.out_channels
    found.zero_grad()
    return found


def predict_with(
    unet: Any, noisy: Tensor, timesteps: Tensor, words: Tensor, rows: Tensor
) -> Tensor:
    """The noise under these words."""
    return unet(noisy, timesteps, words).sample


def noised(training: Training, rows: Tensor, timestep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of these rows at a noise level, their noise, and the timestep of each."""
    noise = torch.randn(training.latents[rows].shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((len(rows),), timestep)
    noisy = training.pipeline.scheduler.add_noise(training.latents[rows], noise, timesteps)
    return noisy, noise, timesteps


@torch.no_grad()
def difference(unet: nn.Module, training: Training) -> float:
    """Of two predictions, over the size of the original's, at 10 noise levels."""
    rows, sums = torch.arange(NUM_COMPARED), [0.0, 0.0]
    words = training.words[rows % len(SEEN)]
    for timestep in LEVELS:
        noisy, _, timesteps = noised(training, rows, timestep)
        wanted = training.pipeline.unet(noisy, timesteps, words).sample
        found = unet(noisy, timesteps, words).sample
        sums[0] += float((found - wanted).square().sum())
        sums[1] += float(wanted.square().sum())
    return (sums[0] / sums[1]) ** 0.5


def measure(case: Case, runs: Path) -> None:
    """Narrow, train and judge one UNet."""
    folder = runs / "beside_torch_pruning"
    path = folder / f"{case.name}.json"
    if path.exists():
        return
    folder.mkdir(exist_ok=True)
    original = runs / "original"
    training = Training.of(original, draw(scenes(), seed=0))
    if case.tool == "pelap":
        unet = narrow_with_pelap(case, original, pelap.pictures(runs / "pictures", SIZE))
    else:
        unet = narrow_with_torch_pruning(case, training)
    found: dict[str, Any] = {"case": vars(case)}
    found["share"] = count(unet) / count(training.pipeline.unet)
    found["parameters"] = sum(one.numel() for one in unet.parameters())
    found["differs"] = difference(unet, training)
    unet.requires_grad_(True)
    training.run([*unet.parameters()], STEPS, RATE, partial(predict_with, unet), case.seed)
    found["differs_trained"] = difference(unet, training)
    training.pipeline.unet = unet
    for name, told in zip(SHARES, (SEEN, HELD_OUT * TIMES_HELD_OUT), strict=True):
        images = sample_told(training.pipeline, told, GUIDANCE, NUM_STEPS, case.seed)
        found[name] = accuracy(images, told)
        drawn = {"pictures": as_pictures(images)}
        save_file(drawn, folder / f"{case.name}-{name}.safetensors")
    write_whole(path, (json.dumps(found) + "\n").encode())


def table(found: list[dict[str, Any]]) -> str:
    """A row a tool and criterion: mean ± spread over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in found:
        case = Case(**one["case"])
        groups.setdefault((case.macs, case.tool, case.criterion), []).append(one)
    rows = []
    for (macs, tool, criterion), some in sorted(groups.items(), key=lambda one: -one[0][0]):
        columns = [[one[name] for one in some] for name in ("share", "differs", "differs_trained")]
        columns.insert(1, [one["parameters"] / 1e6 for one in some])
        columns += [[one[name]["all"] for one in some] for name in SHARES]
        shown = [plus_minus(values, 2) for values in columns]
        shown[1] += " M"
        rows.append([f"{macs:g}", tool, criterion, str(len(some)), *shown])
    return markdown(HEAD, rows)


def draw_rows(folder: Path, output: Path) -> None:
    """The same held-out prompts by each tool with its gradients' units, seed 0."""
    from evidence_figures import draw_strips, save_figure

    strips: list[tuple[str, Any]] = []
    for macs, tool in product(MACS, TOOLS):
        path = folder / f"{Case(tool, 'taylor', macs, 0).name}-held_out.safetensors"
        if path.exists():
            strips.append((f"{tool}, MACs {macs:g} at most", load_file(path)["pictures"]))
    if strips:
        save_figure(partial(draw_strips, strips), output / "figures/drawn.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int, help="the first so many cases")
    options = parser.parse_args()
    write_pictures(options.runs)
    cases = all_cases()[: options.only]
    for_each(partial(measure, runs=options.runs), cases, options.jobs)
    folder = options.runs / "beside_torch_pruning"
    paths = [folder / f"{case.name}.json" for case in cases]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    write_experiment(options.output / f"{options.output.name}.json", __doc__, {"narrowed": found})
    put_table(options.output / "README.md", "torch-pruning", table(found))
    draw_rows(folder, options.output)


if __name__ == "__main__":
    main()
