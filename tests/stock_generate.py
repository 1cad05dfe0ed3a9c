"""Loads saved pipelines with stock diffusers, where pelap cannot be imported, and draws a picture.

    python tests/stock_generate.py FOLDER [FOLDER ...] OUT.json

OUT.json becomes a list with one entry per folder, in the order given. FOLDER@FILE loads the LoRA
in FILE as well.
"""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FORBIDDEN = "pelap"
STEPS = 2
PROMPT_LENGTH = 5


class Refuse(MetaPathFinder):
    """Refuses to import pelap and everything below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise for the forbidden package, and leave every other name to the next finder."""
        if fullname.partition(".")[0] == FORBIDDEN:
            raise ImportError(f"{fullname} may not be imported here")
        return None


def forbid_pelap() -> None:
    """Make importing pelap impossible in this process, and check that it is."""
    sys.meta_path.insert(0, Refuse())
    check_unimported()
    for name in (FORBIDDEN, f"{FORBIDDEN}.cli"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        raise RuntimeError(f"{name} can be imported")


def check_unimported() -> None:
    """Raise if any part of pelap is loaded."""
    if loaded := [name for name in sys.modules if name.partition(".")[0] == FORBIDDEN]:
        raise RuntimeError(f"{loaded[0]} is loaded")


if __name__ == "__main__":
    forbid_pelap()  # before anything that could load pelap is imported

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor


def denoiser(pipeline: Any) -> Any:
    """The network that removes noise, whatever the pipeline calls it."""
    return getattr(pipeline, "unet", None) or pipeline.transformer


def autoencoder(pipeline: Any) -> Any:
    """The network between pictures and latents, whatever the pipeline calls it."""
    return getattr(pipeline, "vae", None) or pipeline.vqvae


def embeddings(width: int, names: Sequence[str], *, pooled: bool = False) -> dict[str, Tensor]:
    """Random prompt embeddings of one width, one for each name."""
    shape = (1, width) if pooled else (1, PROMPT_LENGTH, width)
    return {name: torch.randn(shape) for name in names}


def masks(names: Sequence[str]) -> dict[str, Tensor]:
    """Attention masks that hide no word, one for each name."""
    return {name: torch.ones(1, PROMPT_LENGTH, dtype=torch.long) for name in names}


PROMPTS = ("prompt_embeds", "negative_prompt_embeds")
POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
MASKS = ("prompt_attention_mask", "negative_prompt_attention_mask")


def for_ldm(pipeline: Any) -> dict[str, Any]:
    """No condition: the size follows from the denoiser."""
    return {}


def for_stable_diffusion(pipeline: Any) -> dict[str, Any]:
    """Prompt embeddings as wide as the cross-attention."""
    return embeddings(pipeline.unet.config.cross_attention_dim, PROMPTS)


def for_stable_diffusion_xl(pipeline: Any) -> dict[str, Any]:
    """Also a pooled embedding: what the denoiser's six embedded sizes leave of its input."""
    config = pipeline.unet.config
    sizes = 6 * config.addition_time_embed_dim
    return embeddings(config.cross_attention_dim, PROMPTS) | embeddings(
        config.projection_class_embeddings_input_dim - sizes, POOLED, pooled=True
    )


def for_stable_diffusion_3(pipeline: Any) -> dict[str, Any]:
    """Prompt embeddings and pooled ones."""
    config = pipeline.transformer.config
    return embeddings(config.joint_attention_dim, PROMPTS) | embeddings(
        config.pooled_projection_dim, POOLED, pooled=True
    )


def for_flux(pipeline: Any) -> dict[str, Any]:
    """As Stable Diffusion 3 without negative prompts, and small: the default is 128 latents."""
    config = pipeline.transformer.config
    return (
        {"height": 16, "width": 16}
        | embeddings(config.joint_attention_dim, PROMPTS[:1])
        | embeddings(config.pooled_projection_dim, POOLED[:1], pooled=True)
    )


def for_chroma(pipeline: Any) -> dict[str, Any]:
    """Prompt embeddings with masks, and small."""
    width = pipeline.transformer.config.joint_attention_dim
    shown = {name: mask.float() for name, mask in masks(MASKS).items()}
    return {"height": 16, "width": 16} | embeddings(width, PROMPTS) | shown


def for_dit(pipeline: Any) -> dict[str, Any]:
    """A class."""
    return {"class_labels": [1]}


def for_pixart_sigma(pipeline: Any) -> dict[str, Any]:
    """Prompt embeddings with masks; the size follows from the denoiser."""
    return {
        "negative_prompt": None,
        "use_resolution_binning": False,
        **embeddings(pipeline.transformer.config.caption_channels, PROMPTS),
        **masks(MASKS),
    }


def for_sana(pipeline: Any) -> dict[str, Any]:
    """As PixArt, but the size must be named."""
    config = pipeline.transformer.config
    size = config.sample_size * pipeline.vae_scale_factor
    return {
        "negative_prompt": None,
        "use_resolution_binning": False,
        "height": size,
        "width": size,
        **embeddings(config.caption_channels, PROMPTS),
        **masks(MASKS),
    }


ARGUMENTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "LDMPipeline": for_ldm,
    "StableDiffusionPipeline": for_stable_diffusion,
    "StableDiffusionXLPipeline": for_stable_diffusion_xl,
    "StableDiffusion3Pipeline": for_stable_diffusion_3,
    "FluxPipeline": for_flux,
    "ChromaPipeline": for_chroma,
    "DiTPipeline": for_dit,
    "PixArtSigmaPipeline": for_pixart_sigma,
    "SanaPipeline": for_sana,
}


def generate(folder: Path) -> dict[str, Any]:
    """What one picture from a saved pipeline looks like, in numbers."""
    path, _, lora = str(folder).partition("@")
    pipeline: Any = DiffusionPipeline.from_pretrained(path, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    name = type(pipeline).__name__
    torch.manual_seed(0)
    arguments = ARGUMENTS[name](pipeline)
    pictures = pipeline(
        **arguments,
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=STEPS,
        output_type="np",
    ).images
    return {
        "pipeline": name,
        "shape": list(pictures.shape),
        "latent_channels": autoencoder(pipeline).config.latent_channels,
        "in_channels": denoiser(pipeline).config.in_channels,
        "denoiser_parameters": sum(weight.numel() for weight in denoiser(pipeline).parameters()),
        "mean": float(pictures.mean()),
        "std": float(pictures.std()),
        "finite": bool(np.isfinite(pictures).all()),
    }


def main(folders: Sequence[Path], output: Path) -> None:
    """Generate from every folder and write the list of results."""
    results = [generate(folder) for folder in folders]
    check_unimported()
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    *given, last = map(Path, sys.argv[1:])
    main(given, last)
