"""Open a model: a run of ours, a diffusers folder, a hub id, or a factory of one's own."""

import importlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import diffusers
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import snapshot_download
from torch import nn

from pelap import assets
from pelap.config.run_checks import load_config
from pelap.core.errors import ModelError, foreign_errors, in_one_line
from pelap.core.files import read_object
from pelap.core.json_values import JsonObject
from pelap.core.links import check_contents
from pelap.core.weight_files import check_loaded, find_variant, find_weights, refuse_pickles
from pelap.families.registry import autoencoder_families, denoiser_families, denoiser_family
from pelap.method import paper_networks
from pelap.method.normalizer import fold_normalizer, read_statistics
from pelap.method.pipeline import LatentDiffusionPipeline
from pelap.method.system import LATENT_FACTOR
from pelap.models.kept_units import read_kept_units
from pelap.models.loaded import LoadedModel
from pelap.models.part_config import check_config
from pelap.models.quiet import quiet_loading

AUTOENCODER_NAMES = ("vae", "vqvae", "autoencoder")
DENOISER_NAMES = ("unet", "denoiser", "transformer", "prior")
LDM = "LDMPipeline"
"""diffusers' pipeline of latent diffusion without a condition."""
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.md"]


def open_model(source: str | Path | DiffusionPipeline) -> LoadedModel:
    """Load autoencoder and denoiser; only safetensors and known classes are read, never code.

        model = pelap.open_model("runs/first")

    Args:
        source: A diffusers pipeline folder, an autoencoder's folder, a run, a hub id, a factory of
            one's own (package.module:factory), `cifar`, the model in pelap's repository, or a
            pipeline in memory, whose networks are shared.

    Returns:
        The model; nothing that is done with it changes its networks.

    Raises:
        ModelError: If there is none, it is of an unknown class, or has no safetensors. One line.
    """
    if isinstance(source, DiffusionPipeline):
        return _read_pipeline(source)
    path = Path(source)
    if not path.exists() and ":" in str(source):
        return open_factory(str(source))
    if path.is_file():
        raise ModelError(
            f"{source} is a file: give a diffusers folder. One file with a whole model becomes one "
            "with diffusers, `StableDiffusionPipeline.from_single_file(FILE).save_pretrained(DIR)`."
        )
    if not path.exists() and str(source) == assets.CIFAR:
        path = assets.cifar()
    if not path.exists():
        path = _download(str(source))
    return _open_folder(path, Path(source))


def open_factory(name: str) -> LoadedModel:
    """The autoencoder that `package.module:factory` returns when called without arguments.

    Raises:
        ModelError: If it cannot be imported, or does not return a module with `encode`, `decode`
            and `latent_channels`.
    """
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"--autoencoder {name} cannot be imported ({error}): give package.module:factory."
        ) from error
    autoencoder = factory()
    has_methods = all(callable(getattr(autoencoder, name, None)) for name in ("encode", "decode"))
    if not (isinstance(autoencoder, nn.Module) and has_methods):
        raise ModelError(f"--autoencoder {name} gives no torch module with encode and decode.")
    network: Any = autoencoder.eval()
    model = LoadedModel(attribute, network)
    if not hasattr(autoencoder, "config") and not hasattr(autoencoder, "latent_channels"):
        raise ModelError(f"--autoencoder {name}: the module has no attribute latent_channels.")
    return model


def _read_pipeline(pipeline: DiffusionPipeline) -> LoadedModel:
    """The model that a pipeline in memory holds; its networks are shared, not copied."""
    kind, config = type(pipeline).__name__, dict(pipeline.config)
    name = Path(config.pop("_name_or_path", None) or kind).name
    autoencoder_name = find_part(config, AUTOENCODER_NAMES)
    denoiser_name = find_part(config, DENOISER_NAMES)
    if autoencoder_name is None:
        raise ModelError(f"This {kind} holds no autoencoder.")
    index = {part: list(said) if isinstance(said, tuple) else said for part, said in config.items()}
    parts, scheduler = pipeline.components, pipeline.components.get("scheduler")
    return LoadedModel(
        name,
        parts[autoencoder_name],
        parts[denoiser_name] if denoiser_name else None,
        parts=index | {"_class_name": kind, "_diffusers_version": diffusers.__version__},
        autoencoder_name=autoencoder_name,
        denoiser_name=denoiser_name or "",
        scheduler_config={} if scheduler is None else json.loads(scheduler.to_json_string()),
        memory=pipeline,
    )


def _download(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(
            f"No model at {name}: give a diffusers folder, a run folder or a hub id (owner/name)."
        )
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's and its network layer's errors share no base
        reason = in_one_line(error)
        raise ModelError(f"{name} is no folder here and cannot be downloaded: {reason}") from error


def _open_folder(path: Path, source: Path) -> LoadedModel:
    name = source.resolve().name if source.exists() else str(source)
    if (path / "model" / "model_index.json").is_file() and (path / "config.json").is_file():
        return _open_run(path / "model", name)
    if (path / "model_index.json").is_file():
        return _open_pipeline(path, name)
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if config.get("_class_name") is None:
        refuse_pickles(path)
        raise ModelError(
            f"No model in {path}: it holds neither model_index.json nor a model's config.json."
        )
    if (
        config["_class_name"] in denoiser_families()
        and (path.parent / "model_index.json").is_file()
    ):
        raise ModelError(
            f"{source} is the denoiser of a pipeline, on its own: give the pipeline's folder, "
            f"{source.parent}."
        )
    check_contents(path)
    autoencoder = load_part(path, "diffusers", config["_class_name"], autoencoder_families())
    return LoadedModel(name, autoencoder, folder=path, variants={"": find_variant(path)})


def _open_run(path: Path, name: str) -> LoadedModel:
    model = _open_pipeline(path, name)
    config = load_config(path.parent / "config.json")
    autoencoder = model.autoencoder
    parts = dict(model.parts)
    if parts["_class_name"] == LatentDiffusionPipeline.__name__:
        parts["sample_size"] = config.data.size // LATENT_FACTOR
    names = (model.autoencoder_name, model.denoiser_name)
    denoiser = model.denoiser
    is_stock = denoiser is not None and denoiser_family(denoiser).stock_pipeline == LDM
    if isinstance(autoencoder, AutoencoderKL) and is_stock:
        normalizer = read_statistics(autoencoder)
        if normalizer is not None:
            fold_normalizer(normalizer, autoencoder)
        names = ("vqvae", "unet")
        parts = {
            "_class_name": LDM,
            "_diffusers_version": diffusers.__version__,
            "vqvae": ["diffusers", "AutoencoderKL"],
            "unet": ["diffusers", type(denoiser).__name__],
            "scheduler": ["diffusers", "DDIMScheduler"],
        }
    return LoadedModel(
        name, model.autoencoder, model.denoiser, path, parts, *names,
        scheduler_config=model.scheduler_config, config=config,
    )  # fmt: skip


def _open_pipeline(path: Path, name: str) -> LoadedModel:
    check_contents(path)
    parts = read_json(path / "model_index.json")
    for part in parts:
        if Path(part).name != part or part in (".", ".."):
            raise ModelError(f"{path / 'model_index.json'} names the part {part!r}, a path.")
    for part in parts.keys() & {*AUTOENCODER_NAMES, *DENOISER_NAMES}:
        if not _is_entry(parts[part]):
            raise ModelError(
                f"{path / 'model_index.json'}: {part} is {parts[part]!r}, where a library and a "
                "class belong."
            )
    autoencoder_name = find_part(parts, AUTOENCODER_NAMES)
    if autoencoder_name is None:
        raise ModelError(
            f"{path / 'model_index.json'} names no autoencoder ({', '.join(AUTOENCODER_NAMES)})."
        )
    denoiser_name = find_part(parts, DENOISER_NAMES)
    library, kind = parts[autoencoder_name]
    autoencoder = load_part(path / autoencoder_name, library, kind, autoencoder_families())
    denoiser = None
    if denoiser_name is not None:
        library, kind = parts[denoiser_name]
        denoiser = load_part(path / denoiser_name, library, kind, denoiser_families())
    scheduler = path / "scheduler" / "scheduler_config.json"
    return LoadedModel(
        name, autoencoder, denoiser, path, parts, autoencoder_name, denoiser_name or "",
        scheduler_config=read_json(scheduler) if scheduler.is_file() else {},
        variants={part: find_variant(path / part) for part in parts if (path / part).is_dir()},
        kept_units=read_kept_units(path),
    )  # fmt: skip


def _is_entry(value: Any) -> bool:
    """Whether it names a library and a class, or null for both."""
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and {type(name) for name in value} in ({str}, {type(None)})


def find_part(parts: JsonObject, names: tuple[str, ...]) -> str | None:
    """The first of these names under which a pipeline's index has a part."""
    for name in names:
        part = parts.get(name)
        if isinstance(part, list | tuple) and len(part) == 2 and isinstance(part[1], str):
            return name
    return None


def read_json(path: Path) -> JsonObject:
    """A JSON object from a file.

    Raises:
        ModelError: If it is missing or no JSON object.
    """
    if not path.is_file():
        raise ModelError(f"{path.parent} is incomplete: it holds no {path.name}.")
    return read_object(path, ModelError)


def load_part(folder: Path, library: str, kind: str, known: Collection[str]) -> Any:
    """A network from its folder, in the precision it was saved in.

    Raises:
        ModelError: If its class is unknown, or its weights are missing, damaged or pickles.
    """
    home: Any = diffusers if library == "diffusers" else paper_networks
    if kind not in known or not hasattr(home, str(kind)):
        raise ModelError(
            f"{folder.name} is {library}.{kind}, which is not supported; known are "
            f"{', '.join(known)}. docs/families.md shows how to add one."
        )
    if not folder.is_dir():
        raise ModelError(f"{folder.parent} is incomplete: it holds no folder {folder.name}.")
    config = read_json(folder / "config.json")
    check_config(folder / "config.json", config, getattr(home, kind))
    weights = find_weights(folder)
    failed = foreign_errors(lambda reason: ModelError(f"{folder} cannot be loaded: {reason}"), 300)
    with failed, quiet_loading():
        model, found = getattr(home, kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, variant=weights.variant,
            torch_dtype=weights.dtype(), output_loading_info=True,
        )  # fmt: skip
    check_loaded(folder, model, found["missing_keys"])
    if "_pelap" in config:
        model.register_to_config(_pelap=config["_pelap"])
    return model.eval()
