"""An export in words."""

from typing import Any


def describe_export(record: dict[str, Any]) -> str:
    """A few lines a network: what it takes and gives, how large it is, how far from torch."""
    return "\n".join(
        line for name, found in record["networks"].items() for line in _describe(name, found)
    )


def _describe(name: str, found: dict[str, Any]) -> list[str]:
    worst = max(found["max_difference"].values())
    batches = " and ".join(found["max_difference"])
    lines = [
        f"{name:10} {found['class']}",
        f"{'':10} takes    {_values(found['inputs'])}",
        f"{'':10} gives    {_values(found['outputs'])}",
        f"{'':10} {found['num_bytes'] / 1e6:.2f} MB, at most {worst:.1e} from torch "
        f"(batches of {batches})",
    ]
    if "int8" in found:
        int8 = found["int8"]
        lines.append(
            f"{'':10} int8     {int8['num_bytes'] / 1e6:.2f} MB, {int8['size_ratio']:.0%} of that; "
            f"{int8['relative_difference']:.1%} of the output's standard deviation from torch"
        )
    return lines


def _values(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {'×'.join(map(str, value['shape']))} {value['dtype']}"
        for name, value in values.items()
    )
