"""What each way to save memory saves: MiB that a step of recovery holds, from torch's allocations.

    python benchmarks/recovery_memory.py [--side 32] [--batch-size 8]

A UNet2DConditionModel of 40 million weights learns from another one; nothing is trained to an end.
Prints a table in Markdown.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from pelap.families.registry import denoiser_ports
from pelap.training.recovery.adapters import add_adapters

MIB = 2**20


@dataclass(frozen=True)
class Way:
    """Options of a recovery."""

    option: str
    bf16: bool = False
    parts: int = 1
    checkpoints: bool = False
    lora: bool = False


WAYS = (
    Way("`--precision fp32`"),
    Way("`--precision bf16`", bf16=True),
    Way("`--accumulate 4`", parts=4),
    Way("`--gradient-checkpointing`", checkpoints=True),
    Way("`--train lora --rank 64`", lora=True),
    Way("all of these", bf16=True, parts=4, checkpoints=True, lora=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--batch-size", type=int, default=8)
    asked = parser.parse_args()
    network = build()
    lines = ["| | weights and teacher | gradients, AdamW, average | activations | together |"]
    lines += ["|---|---|---|---|---|"]
    for way in WAYS:
        held, trained, kept = measure(way, network, asked.side, asked.batch_size)
        sizes = [f"{size / MIB:,.0f}" for size in (held, trained, kept, held + trained + kept)]
        lines.append(f"| {way.option} | {' | '.join(sizes)} |")
    print("\n".join(lines))  # noqa: T201


def build() -> Any:
    """A middle-sized denoiser with a text's condition."""
    torch.manual_seed(0)
    kind: Any = UNet2DConditionModel
    return kind(
        sample_size=32,
        block_out_channels=(96, 192, 384),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=256,
        attention_head_dim=8,
    )


def measure(way: Way, network: Any, side: int, batch_size: int) -> tuple[int, int, int]:
    """Bytes of student and teacher, of what training adds to each weight, and of a step."""
    teacher = copy.deepcopy(network).requires_grad_(False)
    student, weights = copy.deepcopy(network).eval(), list(network.parameters())
    if way.bf16:
        teacher = nn.Module.to(teacher, torch.bfloat16)
    if way.lora:
        ports = denoiser_ports(student)
        layers = (ports.input_norm, ports.input.layer, ports.output.layer)
        student.requires_grad_(False)
        added = add_adapters(student, 64, 0, layers)
        firsts = [student.get_submodule(name) for name in layers if name]
        weights = [*added.values(), *(w for first in firsts for w in first.parameters())]
        for weight in weights:
            weight.requires_grad_(True)
    if way.checkpoints:
        student.enable_gradient_checkpointing()
    held = sum(w.numel() * w.element_size() for n in (student, teacher) for w in n.parameters())
    size = batch_size // way.parts
    inputs = (torch.randn(size, 4, side, side), torch.arange(size), torch.randn(size, 77, 256))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
            prediction = student(*inputs).sample.float()
        F.mse_loss(prediction, torch.zeros_like(inputs[0])).backward()

    for weight in weights:  # they are counted apart
        weight.grad = torch.zeros_like(weight)
    return held, 4 * sum(4 * w.numel() for w in weights), most_allocated(step)


def most_allocated(step: Callable[[], None]) -> int:
    """Bytes that a step holds at most beyond what was there, from every allocation of torch's."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events: Any = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    in_time = sorted(events, key=lambda event: event.start_ns())
    changes = (event.nbytes() for event in in_time if event.name() == "[memory]")
    return max(accumulate(changes, initial=0))


if __name__ == "__main__":
    main()
