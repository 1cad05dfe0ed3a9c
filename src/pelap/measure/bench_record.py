"""What `pelap bench sample` measured, and the same in words. No torch here."""

from dataclasses import dataclass, field

from pelap.core.records import OPTIONAL


@dataclass(frozen=True)
class Measurement:
    """One model in one setting."""

    precision: str
    compiled: bool
    batch_size: int
    seconds_per_picture: float
    """Median over the rounds, of whole samplings."""
    pictures_per_second: float
    peak_memory_bytes: int | None
    """Weights of denoiser and decoder, and the most that a sampling holds beside them; None for
    onnxruntime, whose allocations torch does not see."""
    denoising_share: float
    """Part of the time; the rest is decoding."""


@dataclass(frozen=True)
class ModelCost:
    """Counts and times of one model."""

    name: str
    backend: str
    scheduler: str
    """Class of diffusers that made the steps."""
    parameters: dict[str, int | None]
    """By encoder, decoder, denoiser and total; None where only an export is known."""
    macs: dict[str, int | None]
    """Multiply-accumulates for one picture: denoiser_step, decode."""
    latent_shape: tuple[int, int, int]
    """(C, h, w)."""
    latent_bytes: int
    """Size of a latent in the first precision."""
    measurements: list[Measurement] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """Time of the second model over that of the first in one setting, over the rounds."""

    precision: str
    compiled: bool
    batch_size: int
    ratio: float
    """Median: how many times as fast the first model is."""
    ratio_min: float
    ratio_max: float


@dataclass(frozen=True)
class SamplingBench:
    """One model, or two in turn, in every setting that was asked for."""

    models: list[ModelCost]
    sampler: str
    steps: int
    rounds: int
    backend: str
    device: str
    machine: str
    versions: dict[str, str]
    ratios: list[Ratio] | None = field(default=None, metadata=OPTIONAL)
    """For each setting of two models; None for a single model."""


COLUMNS = (
    f"  {'precision':16} {'batch':>5} {'ms/picture':>11} {'pictures/s':>11} "
    f"{'memory MB':>10} {'denoising':>10}"
)


def describe_sampling(bench: SamplingBench) -> str:
    """The ratios first, then each model with its measurements."""
    lines = [
        f"{bench.sampler}, {bench.steps} steps, {bench.rounds} rounds, {bench.device}, "
        f"{bench.machine}"
    ]
    if bench.ratios is not None:
        first, second = (model.name for model in bench.models)
        lines.append(f"{first} is so many times as fast as {second}:")
        lines += [
            f"  {_setting(row)}  {row.ratio:.2f} ({row.ratio_min:.2f} to {row.ratio_max:.2f})"
            for row in bench.ratios
        ]
    for model in bench.models:
        lines += _model(model)
    return "\n".join(lines)


def _setting(row: Ratio | Measurement) -> str:
    words = f"{row.precision}, {'compiled' if row.compiled else 'eager'}"
    return f"{words:16} {row.batch_size:>5}"


def _model(model: ModelCost) -> list[str]:
    shape = " × ".join(map(str, model.latent_shape))
    return [
        f"{model.name}, {model.backend}, {model.scheduler}",
        f"  {'latent':16} {shape}, {model.latent_bytes:,} bytes",
        *(f"  {_counted(name, 'parameters', n)}" for name, n in model.parameters.items()),
        *(f"  {_counted(name, 'MACs', n)}" for name, n in model.macs.items()),
        COLUMNS,
        *map(_measurement, model.measurements),
    ]


def _counted(name: str, unit: str, count: int | None) -> str:
    return f"{name.replace('_', ' '):16} {'?' if count is None else f'{count:,}'} {unit}"


def _measurement(row: Measurement) -> str:
    memory = row.peak_memory_bytes
    megabytes = "?" if memory is None else f"{memory / 1e6:.1f}"
    return (
        f"  {_setting(row)} {1000 * row.seconds_per_picture:>11.2f} "
        f"{row.pictures_per_second:>11.2f} {megabytes:>10} {row.denoising_share:>10.0%}"
    )
