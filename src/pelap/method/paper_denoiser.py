"""The paper's small UNet as a diffusers model."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.method.paper_blocks import TimeBlock


class PaperUNet(ModelMixin, ConfigMixin):
    """Noise prediction (B, C, h, w) from noisy latents (B, C, h, w) and timesteps (B,).

    The layers of PeLAP-A (arXiv 2606.23086); at the default width 820,748 parameters. Takes and
    returns what diffusers' `UNet2DModel` does.

    The first GroupNorm has min(8, C) groups. For C ≤ 8 that is one group a channel, which erases
    each channel's mean and scale; see docs/collapse.md for what follows.

    Args:
        latent_channels: C.
        base_channels: Width at full resolution; twice that at half resolution. A multiple of 8.
        time_channels: Width of the time embedding.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 4, base_channels: int = 64, time_channels: int = 128):
        super().__init__()
        outer, inner = base_channels, 2 * base_channels
        self.sinusoid = Timesteps(time_channels, flip_sin_to_cos=False, downscale_freq_shift=1)
        self.time = TimestepEmbedding(time_channels, 2 * time_channels, out_dim=time_channels)
        self.down = TimeBlock(latent_channels, outer, time_channels)
        self.middle_in = TimeBlock(outer, inner, time_channels)
        self.middle_out = TimeBlock(inner, inner, time_channels)
        self.up = TimeBlock(inner + outer, outer, time_channels)
        self.out = nn.Conv2d(outer, latent_channels, 1)

    def forward(self, sample: Tensor, timestep: Tensor | float) -> UNet2DOutput:
        """Predict the noise in `sample` (B, C, h, w) at `timestep` (B,) or scalar."""
        if not sample.requires_grad:
            # torch 2.13 crashes in GroupNorm's backward for channels_last without input gradient
            sample = sample.contiguous()
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])  # (B,)
        embedding = self.time(self.sinusoid(timesteps).to(sample.dtype))  # (B, time)
        full = self.down(sample, embedding)  # (B, outer, h, w)
        half = self.middle_in(F.avg_pool2d(full, 2), embedding)  # (B, inner, h/2, w/2)
        half = self.middle_out(half, embedding)  # (B, inner, h/2, w/2)
        x = torch.cat(
            [F.interpolate(half, scale_factor=2.0), full], dim=1
        )  # (B, inner+outer, h, w)
        return UNet2DOutput(sample=self.out(self.up(x, embedding)))  # (B, C, h, w)
