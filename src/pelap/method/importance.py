"""The importance predictor: which channels of this latent matter?"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pelap.families.latent_axes import axes_of


class ImportancePredictor(ModelMixin, ConfigMixin):
    """Latents (B, C, h, w) → scores (B, C): global average pool and a two-layer MLP.

    PeLAP-A (arXiv 2606.23086). The last layer starts with weights 0 and bias `initial_score`, so
    that every score starts there. Computes in float32 under autocast: a mask near 0 or 1 would be
    lost in bfloat16's rounding.

    Args:
        latent_channels: C.
        hidden_channels: Width of the hidden layer.
        initial_score: Score of every channel at the start.
    """

    @register_to_config
    def __init__(
        self, latent_channels: int = 4, hidden_channels: int = 32, initial_score: float = 3.0
    ):
        super().__init__()
        self.hidden = nn.Linear(latent_channels, hidden_channels)
        self.out = nn.Linear(hidden_channels, latent_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, initial_score)

    def forward(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            pooled = latents.float().mean(dim=axes_of(latents))  # (B, C)
            return self.out(torch.relu(self.hidden(pooled)))  # (B, C)
