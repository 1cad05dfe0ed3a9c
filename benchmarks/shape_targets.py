"""How near `--denoiser-macs` comes to its target on the configs of known models, without weights.

    python benchmarks/shape_targets.py --output results/width

Every shape that a class can express is counted on the meta device; nothing is computed.
"""

import argparse
from pathlib import Path
from typing import Any

import diffusers
import torch

import width
from evidence import command_of, markdown, put_table, read_experiment, write_experiment
from pelap.measure.machine import machine
from pelap.measure.macs import count_denoiser_macs
from pelap.pruning.width.shape_search import WINDOW, find_shapes
from pelap.pruning.width.shape_space import open_space
from pelap.pruning.width.shapes import Shape

TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
UNET_SD15 = {
    "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "cross_attention_dim": 768, "attention_head_dim": 8,
}  # fmt: skip
UNET_SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
XL_2 = {
    "num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "patch_size": 2,
    "in_channels": 4, "out_channels": 8,
}  # fmt: skip
PIXART = {
    **XL_2, "cross_attention_dim": 1152, "caption_channels": 4096,
    "use_additional_conditions": False,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Stable Diffusion 1.5": ("UNet2DConditionModel", UNET_SD15),
    "Stable Diffusion XL": ("UNet2DConditionModel", UNET_SDXL),
    "Stable Diffusion 3 medium": ("SD3Transformer2DModel", {
        "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64,
        "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    }),
    "Flux.1 dev": ("FluxTransformer2DModel", {
        "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24,
        "attention_head_dim": 128, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
        "guidance_embeds": True,
    }),
    "PixArt-α XL/2 512": ("PixArtTransformer2DModel", {**PIXART, "sample_size": 64}),
    "PixArt-Σ XL/2 1024": ("PixArtTransformer2DModel", {**PIXART, "sample_size": 128}),
    "DiT-XL/2 256": ("DiTTransformer2DModel", {
        **XL_2, "sample_size": 32, "num_embeds_ada_norm": 1000,
    }),
}  # fmt: skip


def search(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    """What the search finds for one model at every target."""
    with torch.device("meta"):
        denoiser = getattr(diffusers, class_name).from_config(config).eval()
    space, before = open_space(denoiser), count_denoiser_macs(denoiser)

    def noted(shape: Shape | None) -> dict[str, Any] | None:
        if shape is None:
            return None
        return {"numbers": list(shape.widths), "macs": round(shape.macs / before, 4)}

    targets = []
    for target in TARGETS:
        found = find_shapes(space, target, before)
        shares = space.estimates / before
        meet = (shares <= target + 1e-9) & (shares >= target - WINDOW - 1e-9)
        targets.append({
            "target": target,
            "num_meeting": int(meet.sum()),
            "shapes": [noted(shape) for shape in found.shapes],
            "nearest": found.nearest and [noted(shape) for shape in found.nearest],
        })  # fmt: skip
    return {
        "class": class_name, "config": config, "macs": before, "names": list(space.freedom.names),
        "today": list(space.today), "num_shapes": len(space.table),
        "estimate_error": space.error / before, "targets": targets,
    }  # fmt: skip


def table(models: dict[str, Any]) -> str:
    """MACs of the first shape taken at each target; the nearest two where none meets it."""
    rows = []
    for name, found in models.items():
        cells = [
            f"{one['shapes'][0]['macs']:.3f}" if one["nearest"] is None
            else " / ".join(f"{shape['macs']:.3f}" for shape in one["nearest"] if shape)
            for one in found["targets"]
        ]  # fmt: skip
        rows.append([name, f"{found['num_shapes']:,}", *cells])
    return markdown(["model", "shapes", *(f"{target:g}" for target in TARGETS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    models = {}
    for name, (class_name, config) in MODELS.items():
        models[name] = search(class_name, config)
        print(name, [one["shapes"][0] for one in models[name]["targets"]], flush=True)  # noqa: T201
    path = output / "width.json"
    found = {"command": command_of(__doc__), "machine": machine(), "models": models}
    of_widths = read_experiment(path).get("machine")
    write_experiment(path, width.__doc__, {"shape_targets": found}, of_widths)
    for page in (output / "README.md", Path("docs/prune.md")):
        put_table(page, "targets", table(models))


if __name__ == "__main__":
    main()
