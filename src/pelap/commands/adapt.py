"""`pelap adapt`: LoRAs of an original model carried to what was pruned from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pelap.commands.verb_settings import (
    JsonSettings,
    ModelName,
    Output,
    Result,
    Switch,
    shown,
)
from pelap.core.errors import ConfigError

if TYPE_CHECKING:
    from pelap.commands.any_model import AnyModel
    from pelap.pruning.adapters.lora_carry import CarriedLora


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(JsonSettings):
    """What `pelap adapt` takes."""

    model: ModelName
    """The pruned model's folder."""
    lora: Annotated[tuple[Path, ...], shown("FILE [FILE …]")]
    """Of the original: one safetensors file, or several."""
    output: Output
    """The new file; of several the folder."""
    overwrite: Switch = False
    """Replace the files that pelap made at --output."""


@dataclass(frozen=True)
class Adapted(Result):
    """What became of the LoRAs, one record each."""

    loras: "tuple[CarriedLora, ...]"

    def describe(self) -> str:
        return "\n".join(lora.describe() for lora in self.loras)

    def as_dict(self) -> dict[str, Any]:
        """The records by name."""
        return {"loras": [asdict(lora) for lora in self.loras]}


def adapt(
    model: "AnyModel",
    lora: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    overwrite: bool = False,
) -> Adapted:
    """Carry LoRAs of the original to a model that was pruned from it.

        pelap.adapt("small", "style.safetensors", "small_style.safetensors")

    The new file loads with stock diffusers (`load_lora_weights`). Beside it lies a record of what
    was carried and dropped, `NAME.json`.

    Args:
        model: What `prune` or `recover` gave, or its folder.
        lora: A safetensors file by diffusers', kohya's or peft's names, or several.
        output: The new file; of several a folder, in which each keeps its name.
        overwrite: Whether files there that `adapt` wrote may be replaced.

    Returns:
        What became of each.

    Raises:
        ConfigError: If something stands at `output` that is not to be replaced.
        ModelError: If the model does not say what it kept, or a file cannot be carried.
        RunError: If another command writes to `output`.
    """
    from pelap.core.output import locked

    with locked(Path(output)):
        return _adapt(model, lora, Path(output), overwrite)


def _adapt(
    model: "AnyModel", lora: str | Path | Sequence[str | Path], output: Path, overwrite: bool
) -> Adapted:
    from pelap.commands.any_model import as_model
    from pelap.core.files import write_whole
    from pelap.core.records import to_json
    from pelap.pruning.adapters.lora_carry import carry_lora

    loras = [Path(lora)] if isinstance(lora, str | Path) else [Path(one) for one in lora]
    targets = _targets(loras, output)
    for target in targets:
        _check_free(target, loras, overwrite)
    small = as_model(model)
    pairs = zip(loras, targets, strict=True)
    carried = [carry_lora(path, small, target) for path, target in pairs]
    for target, (content, record) in zip(targets, carried, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
        write_whole(target.with_suffix(".json"), to_json(record, indent=2).encode())
    return Adapted(tuple(record for _, record in carried))


def _targets(loras: list[Path], output: Path) -> list[Path]:
    if not loras:
        raise ConfigError("Give at least one --lora FILE.")
    if len(loras) > 1:
        names = [path.name for path in loras]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"--lora names two files {twice}: carry them one by one.")
        return [output / name for name in names]
    if output.suffix != ".safetensors":
        raise ConfigError(f"--output {output}: give the name of a safetensors file.")
    return [output]


def _check_free(target: Path, loras: list[Path], overwrite: bool) -> None:
    if target.resolve() in [path.resolve() for path in loras]:
        raise ConfigError(f"--output {target} is the LoRA of the original: give another name.")
    from pelap.pruning.adapters.lora_carry import is_carried, is_record

    for path, is_ours in ((target, is_carried), (target.with_suffix(".json"), is_record)):
        if path.exists() and not (overwrite and path.is_file()):
            raise ConfigError(f"{path} exists: give another --output, or --overwrite.")
        if path.is_symlink() or (path.exists() and not is_ours(path)):
            raise ConfigError(
                f"{path} was not made by `pelap adapt`, so it is not replaced: give another "
                "--output."
            )


def run(settings: AdaptSettings) -> Adapted:
    """Carry the LoRAs."""
    return adapt(settings.model, settings.lora, settings.output, overwrite=settings.overwrite)
