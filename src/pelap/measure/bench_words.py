"""A bench of sampling in words."""

from pelap.measure.bench_record import Measurement, ModelCost, Ratio, SamplingBench

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
        lines += [f"{first} is so many times as fast as {second}:", *map(_ratio, bench.ratios)]
    for model in bench.models:
        lines += _model(model)
    return "\n".join(lines)


def _ratio(row: Ratio) -> str:
    return (
        f"  {_setting(row):16} {row.batch_size:>5}  {row.ratio:.2f} "
        f"({row.ratio_min:.2f} to {row.ratio_max:.2f})"
    )


def _setting(row: Ratio | Measurement) -> str:
    return f"{row.precision}, {'compiled' if row.compiled else 'eager'}"


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
        f"  {_setting(row):16} {row.batch_size:>5} {1000 * row.seconds_per_picture:>11.2f} "
        f"{row.pictures_per_second:>11.2f} {megabytes:>10} {row.denoising_share:>10.0%}"
    )
