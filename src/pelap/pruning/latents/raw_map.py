"""A map of the latents that the denoiser sees, as one of what the autoencoder gives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pelap.method.latent_map import LatentMap, LatentMoments
from pelap.method.normalizer import LatentNormalizer


@dataclass(frozen=True)
class RawMap:
    """A `LatentMap` in the autoencoder's own units: before scaling, shift and statistics."""

    encode: Tensor
    """(K, C)."""
    encode_offset: Tensor
    """(K,)."""
    decode: Tensor
    """(C, K)."""
    decode_offset: Tensor
    """(C,)."""
    variance: Tensor
    """(K, C): what the logarithms of the variances are multiplied by."""
    variance_offset: Tensor
    """(K,)."""
    mean: Tensor
    """(K,), of the kept latents, for the new normaliser."""
    std: Tensor
    """(K,), their standard deviations, for the same."""


def raw_map(
    latent_map: LatentMap,
    moments: LatentMoments,
    normalizer: LatentNormalizer | None,
    keeps_scalars: bool,
) -> RawMap:
    """The map between raw latents that is `latent_map` between scaled ones.

    A rotated distribution is no longer independent between channels; its log-variances become the
    first-order expansion, around the mean variances, of the logarithm of the rotated diagonal.

    Args:
        latent_map: Between latents as the denoiser sees them.
        moments: Of those.
        normalizer: From raw latents to those; None if they are the same.
        keeps_scalars: Whether the normaliser is one scale and shift for all channels.
    """
    num_channels = len(moments.mean)
    mean, std = torch.zeros(num_channels).double(), torch.ones(num_channels).double()
    if normalizer is not None:
        mean, std = normalizer.mean.double().cpu(), normalizer.std.double().cpu()
    new_mean, new_std = _kept_statistics(latent_map, mean, std, keeps_scalars)
    encode = new_std[:, None] * latent_map.encode / std
    decode = std[:, None] * latent_map.decode / new_std
    spread = encode.square() * (moments.posterior_variance.double() * std.square())  # (K, C)
    weights = spread / spread.sum(dim=1, keepdim=True)
    log_variance = (moments.posterior_variance.double() * std.square()).log()
    return RawMap(
        encode=encode,
        encode_offset=new_mean - encode @ mean,
        decode=decode,
        decode_offset=std * latent_map.offset + mean - decode @ new_mean,
        variance=weights,
        variance_offset=spread.sum(dim=1).log() - weights @ log_variance,
        mean=new_mean,
        std=new_std,
    )


def _kept_statistics(
    latent_map: LatentMap, mean: Tensor, std: Tensor, keeps_scalars: bool
) -> tuple[Tensor, Tensor]:
    if keeps_scalars:
        return mean[: latent_map.num_kept], std[: latent_map.num_kept]
    if latent_map.selects:
        return latent_map.encode @ mean, latent_map.encode @ std
    return torch.zeros(latent_map.num_kept).double(), torch.ones(latent_map.num_kept).double()
