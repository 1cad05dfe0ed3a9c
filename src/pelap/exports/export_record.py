"""What export.json holds, and the same in words. No torch here."""

from typing import NotRequired, TypedDict


class TensorRecord(TypedDict):
    """An input or output of a network."""

    shape: list[int | str]
    """`batch` stands for the number of pictures."""
    dtype: str


class Int8Record(TypedDict):
    """The same network with 8-bit weights."""

    file: str
    num_bytes: int
    size_ratio: float
    """To the float32 file."""
    relative_difference: float
    """Root mean square of the difference from torch on random inputs, over the standard deviation
    of what torch says."""


# with a field whose name is a keyword, `class`
NetworkRecord = TypedDict(
    "NetworkRecord",
    {
        "file": str,
        "class": str,
        "inputs": dict[str, TensorRecord],
        "outputs": dict[str, TensorRecord],
        "num_bytes": int,
        "max_difference": dict[str, float],
        "int8": NotRequired[Int8Record],
    },
)
"""A network; `max_difference` is the largest from torch, by number of pictures."""


class ExportRecord(TypedDict):
    """A folder of exported networks."""

    format: str
    name: str
    opset: int
    latent_shape: list[int]
    """(C, h, w)."""
    packed: bool
    """Whether the denoiser takes patches of latents."""
    networks: dict[str, NetworkRecord]
    """By name: encoder, denoiser, decoder."""
    versions: dict[str, str]


def describe_export(record: ExportRecord) -> str:
    """A few lines a network: what it takes and gives, how large it is, how far from torch."""
    lines = []
    for name, network in record["networks"].items():
        differences, size = network["max_difference"], network["num_bytes"] / 1e6
        lines += [
            f"{name:10} {network['class']}",
            f"{'':10} takes    {_values(network['inputs'])}",
            f"{'':10} gives    {_values(network['outputs'])}",
            f"{'':10} {size:.2f} MB, at most {max(differences.values()):.1e} from torch "
            f"(batches of {' and '.join(differences)})",
        ]
        if "int8" in network:
            int8 = network["int8"]
            lines.append(
                f"{'':10} int8     {int8['num_bytes'] / 1e6:.2f} MB, {int8['size_ratio']:.0%} of "
                f"that; {int8['relative_difference']:.1%} of the output's standard deviation from "
                "torch"
            )
    return "\n".join(lines)


def _values(values: dict[str, TensorRecord]) -> str:
    return ", ".join(
        f"{name} {'×'.join(map(str, value['shape']))} {value['dtype']}"
        for name, value in values.items()
    )
