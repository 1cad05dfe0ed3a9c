"""A small Stable Diffusion, and a PixArt, that draw the pictures of shapes.py as they are told.

    python benchmarks/prompts_model.py --output runs/prompts/original
    python benchmarks/prompts_model.py --output runs/prompts/pixart --like runs/prompts/original

An AutoencoderKL with 8 latent channels at 8×8, a CLIP text model of two layers that is trained with
the denoiser, a UNet2DConditionModel; captions are left out of a tenth of the pictures. The folder
is a stock StableDiffusionPipeline. With --like it is a PixArtAlphaPipeline with that one's
autoencoder and scheduler. Called again it goes on from the last weights written, with its
optimisers begun anew; what a step draws is a function of the step alone.
"""

import argparse
import inspect
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pelap.method.step import uses_bf16
from prompts_transformer import make_transformer, predict_with_transformer
from shapes import SEEN, SIZE, WORDS, Scene, accuracy, draw

LONGEST = 8
"""Tokens of a caption, with the two around it."""
NUM_CHANNELS, WIDTH = 8, 64
NUM_PICTURES, BATCH = 21_450, 64
AUTOENCODER_STEPS, DENOISER_STEPS = 2_000, 5_000
WARM_UP, WRITE_EVERY, SHOW_EVERY = 100, 1_000, 100
DROPOUT = 0.1


def make_tokenizer() -> CLIPTokenizer:
    """One token a word: each word is merged from its end, which nothing else can begin."""
    letters = sorted(set("".join(WORDS)))
    merges, tokens = [], ["<|startoftext|>", "<|endoftext|>", *letters]
    tokens += [f"{letter}</w>" for letter in letters]
    for word in WORDS:
        for start in range(len(word) - 2, -1, -1):
            pair = (word[start], f"{word[start + 1 :]}</w>")
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def make_pipeline() -> StableDiffusionPipeline:
    """The parts of the model with random weights."""
    tokenizer = make_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        projection_dim=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=LONGEST, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    levels: Any = (32, 64, 64)
    down: Any = ("DownEncoderBlock2D",) * 3
    up: Any = ("UpDecoderBlock2D",) * 3
    autoencoder = AutoencoderKL(
        block_out_channels=levels, down_block_types=down,
        up_block_types=up, layers_per_block=1, norm_num_groups=8,
        latent_channels=NUM_CHANNELS, sample_size=SIZE, mid_block_add_attention=False,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4, in_channels=NUM_CHANNELS, out_channels=NUM_CHANNELS,
        block_out_channels=(WIDTH, 2 * WIDTH), layers_per_block=1, attention_head_dim=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH, norm_num_groups=16,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        steps_offset=1, set_alpha_to_one=False,
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=autoencoder, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )  # fmt: skip


def autocast() -> torch.autocast:
    """To bf16, where the processor is made for it."""
    enabled = uses_bf16("auto", torch.device("cpu"))
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def batches(num: int, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
    """Steps and the indices of their batches, with torch's seed set to the step."""
    for step in range(start, stop):
        torch.manual_seed(step)
        yield step, torch.randint(num, (BATCH,))


def schedule(optimizer: torch.optim.Optimizer, step: int, num_steps: int, peak: float) -> None:
    """A short rise, then half a cosine to nothing."""
    rise, fall = min(1.0, (step + 1) / WARM_UP), 0.5 * (1 + math.cos(math.pi * step / num_steps))
    for group in optimizer.param_groups:
        group["lr"] = peak * rise * fall


def train_autoencoder(autoencoder: Any, pictures: Tensor) -> None:
    """Absolute and squared error, and a little KL."""
    optimizer = torch.optim.AdamW(autoencoder.parameters())
    for step, rows in batches(len(pictures), 0, AUTOENCODER_STEPS):
        schedule(optimizer, step, AUTOENCODER_STEPS, 2e-3)
        images = 2 * pictures[rows] - 1  # (B, 3, 32, 32)
        with autocast():
            latents = autoencoder.encode(images).latent_dist
            found = autoencoder.decode(latents.sample()).sample.float()
        difference = found - images
        loss = difference.abs().mean() + difference.square().mean() + 1e-5 * latents.kl().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % SHOW_EVERY == 0:
            error = 10 * torch.log10(4 / difference.detach().square().mean())
            say(f"autoencoder {step} of {AUTOENCODER_STEPS}: {error:.2f} dB")


@torch.no_grad()
def encode(autoencoder: Any, pictures: Tensor) -> Tensor:
    """Means of the latents, unscaled, (N, C, 8, 8)."""
    parts = [autoencoder.encode(2 * some - 1).latent_dist.mean for some in pictures.split(500)]
    return torch.cat(parts)


def predict_with_unet(
    pipeline: Any, tokens: Any, told: Tensor, noisy: Tensor, timesteps: Tensor
) -> Tensor:
    """The noise of (B, C, 8, 8) under the captions numbered `told`."""
    words = pipeline.text_encoder(tokens.input_ids)[0][told]  # (B, L, 64)
    return pipeline.unet(noisy, timesteps, words).sample


def train_denoiser(
    pipeline: Any, denoiser: Any, predict: Callable[..., Tensor], latents: Tensor, folder: Path
) -> None:
    """The noise, predicted under captions; text model and denoiser together, their EMA written."""
    progress = folder / "steps.json"
    done = json.loads(progress.read_text())["steps"] if progress.exists() else 0
    captions = [scene.caption for scene in SEEN] + [""]
    tokens = pipeline.tokenizer(captions, padding="max_length", return_tensors="pt")  # (P, L)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    parameters = [*pipeline.text_encoder.parameters(), *denoiser.parameters()]
    optimizer = torch.optim.AdamW(parameters)
    average = EMAModel(parameters, decay=0.999, use_ema_warmup=True, power=0.75)
    began = time.perf_counter()
    for step, rows in batches(len(latents), done, DENOISER_STEPS):
        schedule(optimizer, step, DENOISER_STEPS, 1e-3)
        told = torch.where(torch.rand(BATCH) < DROPOUT, len(SEEN), rows % len(SEEN))
        timesteps = torch.randint(1000, (BATCH,))
        noise = torch.randn(BATCH, *latents.shape[1:])
        noisy = scheduler.add_noise(latents[rows], noise, timesteps)  # type: ignore[arg-type]
        # torch's fused attention on a CPU is slow backward over few tokens
        with autocast(), sdpa_kernel(SDPBackend.MATH):
            found = predict(pipeline, tokens, told, noisy, timesteps).float()
        loss = (found - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(parameters)
        if step % SHOW_EVERY == 0:
            seconds = time.perf_counter() - began
            say(f"denoiser {step} of {DENOISER_STEPS}: loss {loss:.4f}, {seconds:.0f} s")
        if (step + 1) % WRITE_EVERY == 0:
            average.store(parameters)
            average.copy_to(parameters)
            pipeline.save_pretrained(folder)
            shares = accuracy(sample_told(pipeline, SEEN, 2.0, 25, seed=0), SEEN)
            average.restore(parameters)
            progress.write_text(json.dumps({"steps": step + 1, **shares}) + "\n")
            say(f"denoiser {step + 1}: {shares}")


@torch.no_grad()
def sample_told(
    pipeline: Any, scenes: Sequence[Scene], guidance: float, num_steps: int, seed: int
) -> Tensor:
    """What a stock pipeline draws of the scenes' captions, (N, 3, 32, 32) in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    taken = inspect.signature(pipeline.__call__).parameters
    others = {name: False for name in ("use_resolution_binning", "clean_caption") if name in taken}
    return pipeline(
        [scene.caption for scene in scenes], num_inference_steps=num_steps, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed), output_type="pt",
        height=SIZE, width=SIZE, **others,
    ).images  # fmt: skip


def open_or_make(folder: Path, like: Path | None, pictures: Tensor) -> Any:
    """The pipeline as far as it is trained."""
    if (folder / "model_index.json").exists():
        return DiffusionPipeline.from_pretrained(folder)
    if like is not None:
        pipeline: Any = DiffusionPipeline.from_pretrained(like)
        pipeline = make_transformer(pipeline.vae, pipeline.scheduler)
    else:
        pipeline = make_pipeline()
        train_autoencoder(pipeline.vae, pictures)
        latents = encode(pipeline.vae, pictures[:2000])
        pipeline.vae.register_to_config(scaling_factor=float(1 / latents.std()))
    pipeline.save_pretrained(folder)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--like", type=Path, help="a PixArt with the autoencoder of this model")
    options = parser.parse_args()
    torch.manual_seed(0)
    pictures = draw([SEEN[index % len(SEEN)] for index in range(NUM_PICTURES)], seed=0)
    pipeline = open_or_make(options.output, options.like, pictures)
    latents = encode(pipeline.vae, pictures) * pipeline.vae.config.scaling_factor
    denoiser, predict = getattr(pipeline, "unet", None), predict_with_unet
    if denoiser is None:
        denoiser, predict = pipeline.transformer, predict_with_transformer
    train_denoiser(pipeline, denoiser, predict, latents, options.output)


if __name__ == "__main__":
    main()
