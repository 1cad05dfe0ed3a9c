"""Speed of training: our step against the naive one, alternating in one process.

Only the ratio of one run is worth quoting; bare times change with the machine and its neighbours.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from pelap.commands.bench_train import BenchTrainSettings, TrainingBench
from pelap.config.run_config import RunConfig
from pelap.core.errors import ConfigError
from pelap.core.seeding import generator
from pelap.data.load import load_pictures
from pelap.data.pictures import Pictures, to_batch
from pelap.measure.machine import machine, versions
from pelap.method.step import make_draws, resolve_precision, training_step, uses_bf16
from pelap.method.system import build_system
from pelap.training.preparation import build_optimizer, place

CONV_CHANNELS, CONV_SIDE, CONV_BATCH = 128, 32, 64
"""The one large layer whose rate the step is held against."""


class _PerPictureDataset(Dataset[Tensor]):
    """The usual pipeline: one PIL picture at a time through flip, array, tensor and scaling."""

    def __init__(self, pictures: Pictures, flip: bool):
        self.pictures = pictures
        self.flip = flip

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        pixels = self.pictures.fetch(torch.tensor([index]))[0].permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels)
        if self.flip and np.random.default_rng(index).random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = np.asarray(picture, dtype=np.float32) / 255
        return torch.from_numpy(values.transpose(2, 0, 1).copy()).sub(0.5).div(0.5)


@dataclass
class _Contestant:
    """One way to train: a step to call, and the seconds its calls took."""

    step: Callable[[], None]
    seconds: list[float]

    def time(self, synchronise: Callable[[], None]) -> None:
        """Run one step and note how long it took."""
        synchronise()
        start = time.perf_counter()
        self.step()
        synchronise()
        self.seconds.append(time.perf_counter() - start)


def bench_train(
    config: RunConfig, rounds: int = BenchTrainSettings.rounds, steps_per_round: int = 2
) -> TrainingBench:
    """Time the naive step and ours in turn on the same batch size and data.

    Naive: float32, contiguous, eager, AdamW as torch has it by default, every picture decoded and
    turned into a tensor on its own. Ours: what `train` does with this config.

    Args:
        config: The run whose step is timed.
        rounds: Alternations that count, after one that does not.
        steps_per_round: Steps of each contestant in a round.

    Raises:
        ConfigError: If `rounds` is below 1, or a setting cannot be used.
        DataError: If the pictures cannot be read.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds is {rounds}: it must be at least 1.")
    accelerator = Accelerator()
    encoded = replace(config.data, memory_gb=1e-9)  # nothing fits: decoded again for each batch
    naive_pictures = load_pictures(encoded, config.run.seed).train
    pictures = load_pictures(config.data, config.run.seed).train
    naive = _Contestant(_naive_step(config, naive_pictures, accelerator), [])
    ours = _Contestant(_our_step(config, pictures, accelerator), [])
    convolution = _Contestant(_large_convolution(config, accelerator.device), [])
    synchronise = torch.cuda.synchronize if accelerator.device.type == "cuda" else lambda: None
    for contestant in (naive, ours, convolution):
        contestant.step()
    for _ in range(rounds):
        for contestant in (naive, ours):
            for _ in range(steps_per_round):
                contestant.time(synchronise)
        convolution.time(synchronise)
    with FlopCounterMode(display=False) as counter:
        ours.step()
    step_macs = counter.get_total_flops() / 2
    batch = config.data.batch_size
    ratios = [
        n / o for n, o in zip(_per_round(naive, rounds), _per_round(ours, rounds), strict=True)
    ]
    rate = step_macs / median(ours.seconds)
    peak = _convolution_macs() / median(convolution.seconds)
    return TrainingBench(
        preset=config.preset,
        batch_size=batch,
        rounds=rounds,
        precision=resolve_precision(config.run.precision, accelerator.device),
        compiled=config.run.compile,
        naive_images_per_second=batch / median(naive.seconds),
        images_per_second=batch / median(ours.seconds),
        ratio=median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        step_gmacs_per_second=rate / 1e9,
        convolution_gmacs_per_second=peak / 1e9,
        share_of_convolution_rate=rate / peak,
        machine=machine(),
        versions=versions(),
    )


def _per_round(contestant: _Contestant, rounds: int) -> list[float]:
    return [sum(part) for part in np.array_split(contestant.seconds, rounds)]


def _naive_step(
    config: RunConfig, pictures: Pictures, accelerator: Accelerator
) -> Callable[[], None]:
    config = replace(
        config, run=replace(config.run, precision="fp32", channels_last=False, compile=False)
    )
    system = build_system(config).to(accelerator.device)
    optimizer = torch.optim.AdamW(
        system.parameters(),
        lr=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
    )
    dataset = _PerPictureDataset(pictures, config.data.flip)
    batches = _endless(DataLoader(dataset, config.data.batch_size, shuffle=True, drop_last=True))

    def step() -> None:
        images = next(batches).to(accelerator.device)
        draws = make_draws(config, len(images), "draws", 0, accelerator.device)
        training_step(system, optimizer, images, draws, config, accelerator)

    return step


def _endless(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from loader


def _our_step(
    config: RunConfig, pictures: Pictures, accelerator: Accelerator
) -> Callable[[], None]:
    system = place(build_system(config), config, accelerator.device)
    optimizer = build_optimizer(system, config)
    source = generator(config.run.seed, "order")

    def step() -> None:
        size = config.data.batch_size
        indices = torch.randint(len(pictures), (size,), generator=source)
        flips = torch.rand(size, generator=source) < 0.5 if config.data.flip else None
        images = to_batch(pictures.fetch(indices), accelerator.device, flips)
        if config.run.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        draws = make_draws(config, size, "draws", 0, accelerator.device)
        training_step(system, optimizer, images, draws, config, accelerator)

    return step


def _large_convolution(config: RunConfig, device: torch.device) -> Callable[[], None]:
    layer = nn.Conv2d(CONV_CHANNELS, CONV_CHANNELS, 3, padding=1)
    images = torch.randn(CONV_BATCH, CONV_CHANNELS, CONV_SIDE, CONV_SIDE, device=device)
    dtype = torch.bfloat16 if uses_bf16(config.run.precision, device) else torch.float32
    layer = layer.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def step() -> None:
        for _ in range(10):
            layer(images)

    return step


def _convolution_macs() -> int:
    return 10 * CONV_BATCH * CONV_SIDE**2 * CONV_CHANNELS**2 * 9
