"""A bench of sampling in words."""

from typing import Any

COLUMNS = f"  {'precision':16} {'batch':>5} {'ms/picture':>11} {'pictures/s':>11} {'memory MB':>10} {'denoising':>10}"  # noqa: E501


def describe_sampling(result: dict[str, Any]) -> str:
    """The ratios first, then each model; `result` is that of `bench_sample`."""
    lines = [
        f"{result['sampler']}, {result['steps']} steps, {result['rounds']} rounds, "
        f"{result['device']}, {result['machine']}"
    ]
    if "ratios" in result:
        first, second = (model["name"] for model in result["models"])
        lines += [f"{first} is so many times as fast as {second}:", *map(_ratio, result["ratios"])]
    for model in result["models"]:
        lines += _model(model)
    return "\n".join(lines)


def _ratio(found: dict[str, Any]) -> str:
    return (
        f"  {_setting(found):16} {found['batch_size']:>5}  {found['ratio']:.2f} "
        f"({found['ratio_min']:.2f} to {found['ratio_max']:.2f})"
    )


def _setting(found: dict[str, Any]) -> str:
    return f"{found['precision']}, {'compiled' if found['compiled'] else 'eager'}"


def _model(model: dict[str, Any]) -> list[str]:
    shape = " × ".join(map(str, model["latent_shape"]))
    return [
        f"{model['name']}, {model['backend']}, {model['scheduler']}",
        f"  {'latent':16} {shape}, {model['latent_bytes']:,} bytes",
        *(f"  {_counted(name, 'parameters', n)}" for name, n in model["parameters"].items()),
        *(f"  {_counted(name, 'MACs', n)}" for name, n in model["macs"].items()),
        COLUMNS,
        *(_measurement(one) for one in model["measurements"]),
    ]


def _counted(name: str, unit: str, count: int | None) -> str:
    return f"{name.replace('_', ' '):16} {'?' if count is None else f'{count:,}'} {unit}"


def _measurement(found: dict[str, Any]) -> str:
    memory = found["peak_memory_bytes"]
    megabytes = "?" if memory is None else f"{memory / 1e6:.1f}"
    return (
        f"  {_setting(found):16} {found['batch_size']:>5} "
        f"{1000 * found['seconds_per_picture']:>11.2f} {found['pictures_per_second']:>11.2f} "
        f"{megabytes:>10} {found['denoising_share']:>10.0%}"
    )
