"""Do a LoRA and a ControlNet of the original go on working after pruning and recovery?

    python benchmarks/prompts_model.py --output runs/prompts/original
    python benchmarks/adapters.py --runs runs/prompts --output results/adapters

On the small Stable Diffusion of prompts_model.py: a LoRA, trained by peft, that turns every ground
black, and a ControlNet, trained by diffusers, that is shown where the shape is. `pelap adapt`
carries both to the pruned and recovered models of prompts.py; stock diffusers draws with them in a
process without pelap. What is done is not done again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import pelap
import prompts
from evidence import markdown, plus_minus, put_table, write_experiment
from pelap.core.files import write_whole
from prompts import SEEDS, Case, write_pictures
from prompts_model import DROPOUT, autocast, batches, encode, schedule
from shapes import SEEN, accuracy, draw, overlaps, silhouettes

LORA_STEPS, LORA_RATE, RANK = 600, 1e-3, 16
CONTROLNET_STEPS, CONTROLNET_RATE = 1_000, 5e-4
NUM_PICTURES = 6_500
SETTINGS = ((1.0, 4), (0.55, 8), (0.55, 4))
"""Share of MACs, latents of 8."""
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
LORA, CONTROLNET = "black.safetensors", "silhouettes"
HEAD = ["MACs", "latents", "what", "seeds", "black, no LoRA", "black, LoRA", "colour", "shape",
        "overlap, no ControlNet", "overlap, ControlNet"]  # fmt: skip


@dataclass(frozen=True)
class Training:
    """What both adapters are trained on: the noise of latents under captions."""

    pipeline: Any
    latents: Tensor
    words: Tensor
    """What the text model makes of each seen caption and of "", (P + 1, L, D)."""

    @classmethod
    def of(cls, original: Path, pictures: Tensor) -> "Training":
        pipeline: Any = StableDiffusionPipeline.from_pretrained(original)
        latents = encode(pipeline.vae, pictures) * pipeline.vae.config.scaling_factor
        captions = [scene.caption for scene in SEEN] + [""]
        tokens = pipeline.tokenizer(captions, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            words = pipeline.text_encoder(tokens.input_ids)[0]
        return cls(pipeline, latents, words)

    def run(
        self,
        trained: list[Any],
        steps: int,
        rate: float,
        predict: Callable[..., Tensor],
        seed: int = 0,
    ) -> None:
        """Train these parameters; `predict` gets noisy latents, timesteps, words and rows."""
        scheduler: Any = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        optimizer = torch.optim.AdamW(trained)
        for number, rows in batches(len(self.latents), seed * steps, (seed + 1) * steps):
            step = number - seed * steps
            schedule(optimizer, step, steps, rate)
            told = torch.where(torch.rand(len(rows)) < DROPOUT, len(SEEN), rows % len(SEEN))
            timesteps = torch.randint(1000, (len(rows),))
            noise = torch.randn(len(rows), *self.latents.shape[1:])
            noisy = scheduler.add_noise(self.latents[rows], noise, timesteps)
            with autocast(), sdpa_kernel(SDPBackend.MATH):
                found = predict(noisy, timesteps, self.words[told], rows).float()
            loss = (found - noise).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 100 == 0:
                print(f"step {step} of {steps}: loss {loss:.4f}", flush=True)  # noqa: T201


def scenes() -> list[Any]:
    return [SEEN[index % len(SEEN)] for index in range(NUM_PICTURES)]


def train_lora(original: Path, output: Path) -> None:
    """Captions as they were, pictures with a black ground."""
    if (output / LORA).exists():
        return
    black = [replace(scene, ground="black") for scene in scenes()]
    training = Training.of(original, draw(black, seed=21))
    unet = training.pipeline.unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    trained = [weight for weight in unet.parameters() if weight.requires_grad]

    def predict(noisy: Tensor, timesteps: Tensor, words: Tensor, rows: Tensor) -> Tensor:
        return unet(noisy, timesteps, words).sample

    training.run(trained, LORA_STEPS, LORA_RATE, predict)
    layers: Any = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(output, unet_lora_layers=layers, weight_name=LORA)


def train_controlnet(original: Path, output: Path) -> None:
    """Told captions, and shown where the shape is."""
    if (output / CONTROLNET).exists():
        return
    training = Training.of(original, draw(scenes(), seed=22))
    unet = training.pipeline.unet.requires_grad_(False)
    shown = silhouettes(scenes(), seed=22).expand(-1, 3, -1, -1)
    controlnet: Any = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(16, 32, 96)
    )

    def predict(noisy: Tensor, timesteps: Tensor, words: Tensor, rows: Tensor) -> Tensor:
        down, mid = controlnet(
            noisy, timesteps, words, controlnet_cond=shown[rows], return_dict=False
        )
        return unet(
            noisy, timesteps, words, down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample  # fmt: skip

    training.run([*controlnet.parameters()], CONTROLNET_STEPS, CONTROLNET_RATE, predict)
    controlnet.save_pretrained(output / CONTROLNET)


def all_cases() -> Iterator[Case]:
    """The original, then what must hold first."""
    yield Case("original")
    for (macs, channels), kind, seed in product(SETTINGS[::-1], ("pruned", "captions"), SEEDS):
        yield Case(kind, macs, channels, seed)


def judge(case: Case, runs: Path, adapters: Path) -> None:
    """Carry both adapters, draw with and without them, and write what the pictures show."""
    path = adapters / "judged" / f"{case.name}.json"
    if path.exists():
        return
    prompts.run(case, runs)
    model, carried = runs / case.name, adapters / "carried" / case.name
    lora, controlnet = adapters / LORA, adapters / CONTROLNET
    found: dict[str, Any] = {"case": vars(case)}
    if case.kind != "original":
        lora, controlnet = carried / LORA, carried / CONTROLNET
        if not lora.exists():
            pelap.adapt(model, adapters / LORA, lora)
        if not controlnet.exists():
            pelap.adapt(model, controlnet=adapters / CONTROLNET, output=controlnet)
        found["lora"] = json.loads(lora.with_suffix(".json").read_text())
        found["controlnet"] = json.loads((controlnet / "adapted.json").read_text())
    ways = {"alone": [], "lora": ["--lora", lora], "controlnet": ["--controlnet", controlnet]}
    told, black = silhouettes(SEEN, case.seed), [replace(scene, ground="black") for scene in SEEN]
    for way, words in ways.items():
        pictures = drawn(model, adapters / "drawn" / f"{case.name}-{way}.safetensors", words, case)
        shares = accuracy(pictures, black if way == "lora" else SEEN)
        is_black = accuracy(pictures, black)["ground"]
        overlap = sum(overlaps(pictures, told)) / len(told)
        found[way] = shares | {"black": is_black, "overlap": overlap}
    path.parent.mkdir(exist_ok=True)
    write_whole(path, (json.dumps(found) + "\n").encode())


def drawn(model: Path, output: Path, words: list[Any], case: Case) -> Tensor:
    """By stock diffusers, in a process of its own."""
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("adapters_draw.py")
        command = [sys.executable, script, model, output, *words, "--seed", case.seed]
        subprocess.run([str(word) for word in command], check=True)
    return load_file(output)["pictures"]


def table(found: list[dict[str, Any]]) -> str:
    """A row for each kind of model, mean ± spread over its seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in found:
        case = Case(**one["case"])
        groups.setdefault((case.macs, case.channels, case.kind), []).append(one)
    rows = []
    for (macs, channels, kind), some in groups.items():
        shares = [[one["alone"]["black"] for one in some], [one["lora"]["black"] for one in some]]
        shares += [[one["lora"][aspect] for one in some] for aspect in ("colour", "shape")]
        shares += [[one[way]["overlap"] for one in some] for way in ("alone", "controlnet")]
        row = [f"{macs:g}", str(channels), kind, str(len(some))]
        rows.append(row + [plus_minus(values, 2) for values in shares])
    return markdown(HEAD, rows)


def draw_figures(adapters: Path, output: Path) -> None:
    """The same prompts by the original and by the pruned and recovered model, with and without."""
    from evidence_figures import draw_strips, save_figure

    cases = {"original": Case("original"), "pruned and recovered": Case("captions", 0.55, 4, 0)}
    ways = {"alone": "", "lora": ", with the LoRA", "controlnet": ", with the ControlNet"}
    strips = [("what the ControlNet is shown", as_pictures(silhouettes(SEEN, 0)))]
    for (kind, case), (way, words) in product(cases.items(), ways.items()):
        path = adapters / "drawn" / f"{case.name}-{way}.safetensors"
        if path.exists():
            strips.append((kind + words, as_pictures(load_file(path)["pictures"])))
    save_figure(partial(draw_strips, strips), output / "figures/drawn.png")


def as_pictures(found: Tensor) -> Any:
    """The first 14 as bytes, (14, H, W, 3)."""
    some = found[:14].expand(-1, 3, -1, -1)
    return (some * 255).round().byte().permute(0, 2, 3, 1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", type=int, help="the first so many cases")
    options = parser.parse_args()
    write_pictures(options.runs)
    adapters = options.runs / "adapters"
    adapters.mkdir(exist_ok=True)
    train_lora(options.runs / "original", adapters)
    train_controlnet(options.runs / "original", adapters)
    cases = [*all_cases()][: options.only]
    for case in cases:
        judge(case, options.runs, adapters)
    paths = [adapters / "judged" / f"{case.name}.json" for case in cases]
    found = [json.loads(path.read_text()) for path in paths]
    name = f"{options.output.name}.json"
    write_experiment(options.output / name, __doc__, {"models": found})
    put_table(options.output / "README.md", "adapters", table(found))
    draw_figures(adapters, options.output)


if __name__ == "__main__":
    main()
