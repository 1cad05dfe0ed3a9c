"""The two convolutional blocks of the paper's networks."""

from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + [GroupNorm 8 → SiLU → conv3×3 → GroupNorm 8 → SiLU → conv3×3], shape kept.

    PeLAP-A's reference networks (arXiv 2606.23086).
    """

    def __init__(self, num_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, num_channels),
            nn.SiLU(),
            nn.Conv2d(num_channels, num_channels, 3, padding=1),
            nn.GroupNorm(8, num_channels),
            nn.SiLU(),
            nn.Conv2d(num_channels, num_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class TimeBlock(nn.Module):
    """Two normalised convolutions with the time embedding added between, no skip inside.

    PeLAP-A's reference UNet (arXiv 2606.23086).
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int):
        super().__init__()
        self.norm_in = nn.GroupNorm(min(8, in_channels), in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_channels, out_channels)
        self.norm_out = nn.GroupNorm(min(8, out_channels), out_channels)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x (B, in, h, w) and embedding (B, time_channels) to (B, out, h, w)."""
        x = self.conv_in(self.act(self.norm_in(x)))  # (B, out, h, w)
        x = x + self.time(self.act(embedding))[:, :, None, None]  # (B, out, h, w)
        return self.conv_out(self.act(self.norm_out(x)))  # (B, out, h, w)
