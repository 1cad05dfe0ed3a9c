"""TAEF2, a real autoencoder of 32 latent channels (those of FLUX.2), from its two weight files.

`build` is a factory for `--autoencoder taef2:build`; the files are those of
PELAP_DATA/autoencoders/taef2. The layers' places in the sequences are the names of their weights.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CHANNELS = 64
LATENT_CHANNELS = 32
POOLED = 256
"""Channels of the branch that sees the whole picture through its norm."""


class Block(nn.Module):
    """Three convolutions beside the identity; at the lowest resolution a pooled branch before."""

    def __init__(self, pooled: bool = False):
        super().__init__()
        layers = [_conv(CHANNELS, CHANNELS), nn.ReLU(), _conv(CHANNELS, CHANNELS), nn.ReLU()]
        self.conv = nn.Sequential(*layers, _conv(CHANNELS, CHANNELS))
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(CHANNELS, POOLED, 1, bias=False),
                nn.GroupNorm(4, POOLED),
                nn.ReLU(),
                nn.Conv2d(POOLED, CHANNELS, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)  # (B, 64, h, w)
        return torch.relu(x + self.conv(x))  # (B, 64, h, w)


class Bounded(nn.Module):
    """tanh(x / 3) · 3: what the decoder does to its latents first."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Taef2(nn.Module):
    """Images in [-1, 1] to latents of 32 channels at an eighth of the size, and back."""

    latent_channels = LATENT_CHANNELS

    def __init__(self):
        super().__init__()
        lowest = [Block(pooled=True) for _ in range(3)]
        self.encoder = nn.Sequential(
            _conv(3, CHANNELS), Block(), *_half(), Block(), Block(), Block(),
            *_half(), Block(), Block(), Block(), *_half(), *lowest,
            _conv(CHANNELS, LATENT_CHANNELS),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            Bounded(), _conv(LATENT_CHANNELS, CHANNELS), nn.ReLU(),
            *(Block(pooled=True) for _ in range(3)), *_double(), Block(), Block(), Block(),
            *_double(), Block(), Block(), Block(), *_double(), Block(), _conv(CHANNELS, 3),
        )  # fmt: skip

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder((images + 1) / 2)  # (B, 32, H/8, W/8)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents) * 2 - 1  # (B, 3, H, W)


def build() -> Taef2:
    """The autoencoder with its weights, in float32."""
    folder = Path(os.environ["PELAP_DATA"]) / "autoencoders" / "taef2"
    model = Taef2()
    for name in ("encoder", "decoder"):
        weights = {
            key: value.float() for key, value in load_file(folder / f"{name}.safetensors").items()
        }
        getattr(model, name).load_state_dict(weights)
    return model.eval()


def _conv(inputs: int, outputs: int, **more: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **more)  # type: ignore[arg-type]


def _half() -> list[nn.Module]:
    return [_conv(CHANNELS, CHANNELS, stride=2, bias=False)]


def _double() -> list[nn.Module]:
    return [nn.Upsample(scale_factor=2), _conv(CHANNELS, CHANNELS, bias=False)]
