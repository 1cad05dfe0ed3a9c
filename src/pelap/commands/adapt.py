"""`pelap adapt`: adapters of an original model carried to what was pruned from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pelap.commands.verb_settings import (
    AnyPath,
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
    from pelap.pruning.adapters.controlnet_carry import CarriedControlNet
    from pelap.pruning.adapters.ip_adapter_carry import CarriedIPAdapter
    from pelap.pruning.adapters.lora_carry import CarriedLora

RECORD = "adapted.json"
"""In the folder of a carried ControlNet."""


@dataclass(frozen=True, kw_only=True)
class AdaptSettings(JsonSettings):
    """What `pelap adapt` takes."""

    model: ModelName
    """The pruned model's folder."""
    lora: Annotated[tuple[Path, ...], shown("FILE [FILE …]")] = ()
    """Of the original: one safetensors file, or several."""
    controlnet: AnyPath = None
    """A ControlNet of the original: its folder."""
    ip_adapter: AnyPath = None
    """An IP-Adapter of the original: a safetensors file."""
    output: Output
    """The new file; of several LoRAs, and of a ControlNet, the folder."""
    overwrite: Switch = False
    """Replace the files that pelap made at --output."""


@dataclass(frozen=True)
class Adapted(Result):
    """What became of the adapters."""

    loras: "tuple[CarriedLora, ...]" = ()
    controlnet: "CarriedControlNet | None" = None
    ip_adapter: "CarriedIPAdapter | None" = None

    def describe(self) -> str:
        others = (one for one in (self.controlnet, self.ip_adapter) if one is not None)
        return "\n".join(record.describe() for record in (*self.loras, *others))


def adapt(
    model: "AnyModel",
    lora: str | Path | Sequence[str | Path] = (),
    output: str | Path | None = None,
    *,
    controlnet: str | Path | None = None,
    ip_adapter: str | Path | None = None,
    overwrite: bool = False,
) -> Adapted:
    """Carry adapters of the original to a model that was pruned from it.

        pelap.adapt("small", "style.safetensors", "small_style.safetensors")
        pelap.adapt("small", controlnet="canny", output="small_canny")

    What comes out loads with stock diffusers (`load_lora_weights`, `load_ip_adapter`,
    `ControlNetModel.from_pretrained`). Beside a file lies a record of what was carried and dropped,
    `NAME.json`; in a ControlNet's folder it is `adapted.json`.

    Args:
        model: What `prune` or `recover` gave, or its folder.
        lora: A safetensors file by diffusers', kohya's or peft's names, or several.
        output: The new file; of several LoRAs a folder, in which each keeps its name; of a
            ControlNet its folder.
        controlnet: Folder of a ControlNet, in place of a LoRA.
        ip_adapter: Safetensors file of an IP-Adapter, in place of a LoRA.
        overwrite: Whether files there that `adapt` wrote may be replaced.

    Returns:
        What became of each.

    Raises:
        ConfigError: If something stands at `output` that is not to be replaced.
        ModelError: If the model does not say what it kept, or a file cannot be carried.
        RunError: If another command writes to `output`.
    """
    from pelap.core.output import locked

    loras = [Path(lora)] if isinstance(lora, str | Path) else [Path(one) for one in lora]
    if sum((bool(loras), controlnet is not None, ip_adapter is not None)) != 1:
        raise ConfigError("Give one of --lora FILE, --controlnet FOLDER and --ip-adapter FILE.")
    if output is None:
        raise ConfigError("Give --output PATH.")
    output = Path(output)
    if controlnet is not None:
        return _adapt_controlnet(model, Path(controlnet), output, overwrite)
    with locked(output):
        if ip_adapter is not None:
            return _adapt_ip_adapter(model, Path(ip_adapter), output, overwrite)
        return _adapt_loras(model, loras, output, overwrite)


def _adapt_loras(model: "AnyModel", loras: list[Path], output: Path, overwrite: bool) -> Adapted:
    from pelap.commands.any_model import as_model
    from pelap.pruning.adapters.lora_carry import carry_lora

    targets = _targets(loras, output)
    for target in targets:
        _check_free(target, loras, overwrite)
    small = as_model(model)
    pairs = zip(loras, targets, strict=True)
    carried = [carry_lora(path, small, target) for path, target in pairs]
    for target, (content, record) in zip(targets, carried, strict=True):
        _write(target, content, record)
    return Adapted(tuple(record for _, record in carried))


def _adapt_ip_adapter(model: "AnyModel", path: Path, output: Path, overwrite: bool) -> Adapted:
    from pelap.commands.any_model import as_model
    from pelap.pruning.adapters.ip_adapter_carry import carry_ip_adapter

    (target,) = _targets([path], output)
    _check_free(target, [path], overwrite)
    content, record = carry_ip_adapter(path, as_model(model), target)
    _write(target, content, record)
    return Adapted(ip_adapter=record)


def _adapt_controlnet(model: "AnyModel", folder: Path, output: Path, overwrite: bool) -> Adapted:
    from pelap.commands.any_model import as_model
    from pelap.core.files import write_json
    from pelap.core.output import check_output, write_output
    from pelap.core.records import to_json_dict
    from pelap.pruning.adapters.controlnet_carry import carry_controlnet

    if output.resolve() == folder.resolve():
        raise ConfigError(f"--output {output} is the ControlNet of the original: give another.")
    check_output(output, overwrite)
    controlnet, record = carry_controlnet(folder, as_model(model), output)

    def write(new: Path) -> None:
        save: Any = controlnet
        save.save_pretrained(new)
        write_json(new / RECORD, to_json_dict(record))

    write_output(output, write, overwrite=overwrite)
    return Adapted(controlnet=record)


def _write(target: Path, content: bytes, record: "CarriedLora | CarriedIPAdapter") -> None:
    """A file and its record beside it."""
    from pelap.core.files import write_whole
    from pelap.core.records import to_json

    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content)
    write_whole(target.with_suffix(".json"), to_json(record, indent=2).encode())


def _targets(loras: list[Path], output: Path) -> list[Path]:
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
        raise ConfigError(f"--output {target} is the file of the original: give another name.")
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
    """Carry the adapters."""
    return adapt(
        settings.model,
        settings.lora,
        settings.output,
        controlnet=settings.controlnet,
        ip_adapter=settings.ip_adapter,
        overwrite=settings.overwrite,
    )
