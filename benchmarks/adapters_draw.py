"""What a model draws with an adapter, by stock diffusers in a process that knows nothing of pelap.

    python benchmarks/adapters_draw.py MODEL PICTURES.safetensors --lora FILE --seed 0
    python benchmarks/adapters_draw.py MODEL PICTURES.safetensors --controlnet FOLDER --seed 0

Draws the seen scenes of shapes.py; benchmarks/adapters.py calls it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import save_file

from shapes import SEEN, SIZE, silhouettes

GUIDANCE, NUM_STEPS = 4.0, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--controlnet", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    given: dict[str, Any] = {}
    if chosen.controlnet is None:
        pipeline: Any = StableDiffusionPipeline.from_pretrained(chosen.model)
    else:
        controlnet: Any = ControlNetModel.from_pretrained(chosen.controlnet)
        pipeline = StableDiffusionControlNetPipeline.from_pretrained(
            chosen.model, controlnet=controlnet
        )
        given["image"] = silhouettes(SEEN, chosen.seed).expand(-1, 3, -1, -1)
    if chosen.lora is not None:
        pipeline.load_lora_weights(chosen.lora)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        [scene.caption for scene in SEEN], num_inference_steps=NUM_STEPS, output_type="pt",
        generator=torch.Generator().manual_seed(chosen.seed), guidance_scale=GUIDANCE,
        height=SIZE, width=SIZE, **given,
    ).images  # fmt: skip
    assert not any(name.partition(".")[0] == "pelap" for name in sys.modules)
    save_file({"pictures": pictures.contiguous()}, chosen.output)


if __name__ == "__main__":
    main()
