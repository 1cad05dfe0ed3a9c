"""A latent diffusion model trained from scratch with diffusers and accelerate, in a plain loop.

Five lines, marked, make it find the latent channels that it does not need. Without them this is
the loop that you have already, and it runs the same. At the end the other channels are removed.

    python examples/training_loop.py --output small --num-steps 2000
"""

from itertools import chain, islice, repeat
from pathlib import Path

import torch
import tyro
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, LDMPipeline, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import pelap
from pelap.config.run_config import DataConfig
from pelap.data.load import load_pictures
from pelap.data.pictures import to_batch

CHANNELS, BUDGET = 4, 2


class Model(nn.Module):
    """Autoencoder and denoiser, trained together."""

    def __init__(self, size: int, harden_after: int):
        super().__init__()
        self.autoencoder = AutoencoderKL(
            latent_channels=CHANNELS, block_out_channels=(16, 32), norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        self.denoiser = UNet2DModel(
            sample_size=size // 2, in_channels=CHANNELS, out_channels=CHANNELS,
            block_out_channels=(32, 64), norm_num_groups=8, layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        self.scheduler = DDPMScheduler(clip_sample=False)
        self.gate = pelap.LatentGate(CHANNELS, BUDGET, harden_after=harden_after)  # pelap 1
        self.watch = pelap.CollapseWatch(self.scheduler.alphas_cumprod)  # pelap 2

    def forward(self, images: Tensor) -> Tensor:
        """The loss of a batch of images (B, 3, H, W) in [-1, 1]."""
        posterior = self.autoencoder.encode(images).latent_dist
        to_decode = to_denoise = posterior.sample()  # (B, C, h, w)
        noise = torch.randn_like(to_denoise)
        timesteps = torch.randint(1000, (len(images),), device=images.device)
        to_decode, to_denoise, noise = self.gate(to_decode, noise)  # pelap 3

        decoded = self.autoencoder.decode(to_decode).sample
        noisy = self.scheduler.add_noise(to_denoise, noise, timesteps)
        prediction = self.denoiser(noisy, timesteps).sample
        loss = F.mse_loss(decoded, images) + 1e-6 * posterior.kl().mean()
        loss = loss + F.mse_loss(prediction, noise)
        loss = loss + self.gate.loss()  # pelap 4
        self.watch.update(to_denoise, self.gate.mask)  # pelap 5
        return loss


def train(size: int, num_steps: int) -> Model:
    """Train on crops of a few photographs."""
    accelerator = Accelerator()
    torch.manual_seed(0)
    pictures = load_pictures(DataConfig(size=size, num_train=1024, num_test=1), seed=0).train
    images = to_batch(pictures.fetch(torch.arange(len(pictures))), "cpu")
    loader = DataLoader(TensorDataset(images), batch_size=16, shuffle=True, drop_last=True)
    model = Model(size, harden_after=num_steps // 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    for step, (batch,) in enumerate(islice(batches, num_steps), start=1):
        loss = wrapped(batch)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            accelerator.print(f"step {step} · loss {float(loss.detach()):.4f}")
    return model.cpu().eval()


def main(output: Path, size: int = 32, num_steps: int = 2000) -> None:
    """Train, say what the watch saw, and write a pipeline without the closed channels.

    Args:
        output: Two new folders in it: `whole` and `pruned`.
        size: Height and width of the pictures.
        num_steps: Of training; the gate closes channels in the first third.
    """
    model = train(size, num_steps)
    print(model.watch.verdict().collapse)
    model.gate.fold_into(model.autoencoder)  # the pipeline knows nothing of the gate's scale
    scheduler = DDIMScheduler.from_config(model.scheduler.config)
    pipeline = LDMPipeline(model.autoencoder, model.denoiser, scheduler)
    pipeline.save_pretrained(output / "whole")
    small = pelap.prune(pipeline, keep=model.gate.kept())
    small.save(output / "pruned")
    print(small.describe())


if __name__ == "__main__":
    tyro.cli(main)
