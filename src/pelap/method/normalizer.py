"""Per-channel statistics, so that no channel can be scaled away or drown the others."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from pelap.core.processes import mean_over_processes
from pelap.families.latent_axes import axes_of, by_channel
from pelap.method.paper_autoencoder import PaperAutoencoder


class LatentNormalizer(nn.Module):
    """Latents (B, C, …) ↔ latents of mean 0 and variance 1 in each channel.

    Batch normalisation without affine whose running statistics are used in training too, as
    constants: what is trained is what is deployed, and several processes train like one. The cure
    that REPA-E (arXiv 2504.10483) applies between encoder and denoiser.

    Args:
        num_channels: C.
        momentum: Share of a new batch in the running statistics.
        epsilon: Least variance.
    """

    mean: Tensor
    """Running mean of each channel, (C,)."""
    var: Tensor
    """Running variance of each channel, (C,)."""
    num_batches: Tensor

    def __init__(self, num_channels: int, momentum: float = 0.02, epsilon: float = 1e-8):
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("var", torch.ones(num_channels))
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))

    @property
    def std(self) -> Tensor:
        """Running standard deviation of each channel, (C,)."""
        return self.var.clamp(min=self.epsilon).sqrt()

    @torch.no_grad()
    def update(self, latents: Tensor) -> None:
        """Take a batch (B, C, …) into the running statistics."""
        values = latents.detach().float()
        within = (0, *axes_of(values))
        mean = mean_over_processes(values.mean(dim=within))  # (C,)
        deviations = values - by_channel(mean, values)
        var = mean_over_processes(deviations.square().mean(dim=within))  # (C,)
        # The first batches count in full, so that the initial values leave no trace.
        share = max(self.momentum, 1 / (1 + int(self.num_batches)))
        between = share * (1 - share) * (mean - self.mean).square()
        self.var.lerp_(var, share).add_(between)
        self.mean.lerp_(mean, share)
        self.num_batches += 1

    def forward(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, …); in training mode the statistics move first."""
        if self.training:
            self.update(latents)
        return (latents - by_channel(self.mean, latents)) / by_channel(self.std, latents)

    def inverse(self, latents: Tensor) -> Tensor:
        """The latents (B, C, …) that were normalised."""
        return latents * by_channel(self.std, latents) + by_channel(self.mean, latents)

    def normalize_logvar(self, logvar: Tensor) -> Tensor:
        """Log-variances (B, C, …) of the normalised latents."""
        return logvar - 2 * by_channel(self.std.log(), logvar)


def write_statistics(
    normalizer: LatentNormalizer, autoencoder: PaperAutoencoder | AutoencoderKL
) -> None:
    """Put the statistics into the autoencoder's config, where diffusers keeps them."""
    alone = {"scaling_factor": 1.0} if "scaling_factor" in autoencoder.config else {}
    autoencoder.register_to_config(
        latents_mean=normalizer.mean.tolist(), latents_std=normalizer.std.tolist(), **alone
    )


def read_statistics(
    autoencoder: PaperAutoencoder | AutoencoderKL,
) -> LatentNormalizer | None:
    """The normaliser that the autoencoder's config describes; None if it describes none.

    Reads `latents_mean` and `latents_std`, with `scaling_factor` on top as diffusers' pipelines
    apply it, or else `scaling_factor` and `shift_factor`.
    """
    config = autoencoder.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    scale, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    if mean is None or std is None:
        if (scale, shift) == (1.0, 0.0) or "latent_channels" not in config:
            return None
        channels = config["latent_channels"]
        mean, std = [shift] * channels, [1.0] * channels
    normalizer = LatentNormalizer(len(mean))
    normalizer.mean.copy_(torch.tensor(mean))
    normalizer.var.copy_((torch.tensor(std) / scale).square())
    normalizer.num_batches += 1
    return normalizer.eval()


@torch.no_grad()
def fold_normalizer(normalizer: LatentNormalizer, autoencoder: AutoencoderKL) -> None:
    """Move the statistics into the 1×1 convolutions, so that the latents come out normalised.

    Exact: `quant_conv` divides, `post_quant_conv` multiplies, and neither pads.

    Raises:
        ValueError: If the autoencoder lacks one of the two.
    """
    quant, post_quant = autoencoder.quant_conv, autoencoder.post_quant_conv
    if quant is None or post_quant is None:
        raise ValueError("The autoencoder has no quant_conv and post_quant_conv to fold into.")
    mean, std = normalizer.mean, normalizer.std
    channels = len(mean)
    quant.weight[:channels] /= std[:, None, None, None]
    assert quant.bias is not None
    assert post_quant.bias is not None
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post_quant.bias += (post_quant.weight[:, :, 0, 0] * mean).sum(dim=1)
    post_quant.weight *= std[None, :, None, None]
    autoencoder.register_to_config(
        latents_mean=None, latents_std=None, scaling_factor=1.0, shift_factor=None
    )
