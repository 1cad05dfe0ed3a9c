"""From all latent channels to the kept ones and back: selection, rotation and fill as matrices.

Latents here are those that the denoiser sees (scaled, shifted or normalised), where its noise is
isotropic: an orthogonal change of basis leaves that noise as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pelap.families.latent_axes import by_channel

Fill = Literal["zero", "mean", "linear"]
FILLS: tuple[Fill, ...] = ("zero", "mean", "linear")
Rotation = Literal["none", "pca", "decoder"]
ROTATIONS: tuple[Rotation, ...] = ("none", "pca", "decoder")


@dataclass(frozen=True)
class LatentMoments:
    """First and second moments of latents over pictures and positions, in float64."""

    mean: Tensor
    """(C,)."""
    covariance: Tensor
    """(C, C), of the latents as drawn: with the encoder's noise."""
    posterior_variance: Tensor
    """(C,), mean of exp(logvar)."""


@dataclass(frozen=True)
class LatentMap:
    """kept = encode · latents; what stands in for the latents = decode · kept + offset."""

    encode: Tensor
    """(K, C), rows orthonormal, float64."""
    decode: Tensor
    """(C, K), float64."""
    offset: Tensor
    """(C,), float64."""

    @property
    def num_kept(self) -> int:
        return len(self.encode)

    @property
    def selects(self) -> bool:
        """Whether what is kept are channels, and no directions between them."""
        is_binary = ((self.encode == 0) | (self.encode == 1)).all()
        return bool(is_binary and (self.encode.sum(dim=1) == 1).all())

    @property
    def predicts(self) -> bool:
        """Whether removed channels are predicted from kept ones."""
        return not torch.equal(self.decode, self.encode.T)

    def substitute(self, latents: Tensor) -> Tensor:
        """What the decoder gets in place of latents (B, C, *axes)."""
        projector = (self.decode @ self.encode).to(latents)  # (C, C)
        offset = by_channel(self.offset.to(latents), latents)
        return torch.einsum("dc,bc...->bd...", projector, latents) + offset


def keep_channels(
    kept: Sequence[int],
    moments: LatentMoments,
    fill: Fill = "linear",
    rotation: Tensor | None = None,
) -> LatentMap:
    """The map that keeps some channels, or some directions of a rotated basis.

    Args:
        kept: Channels (rows of `rotation` if given), distinct, any order; they keep rising order.
        moments: Of the latents.
        fill: What stands in for removed channels: zero, their mean, or their best linear
            prediction from the kept ones.
        rotation: Orthogonal (C, C), rows are the new directions; None for none.

    Raises:
        ValueError: If `kept` is empty, has duplicates or is out of range.
    """
    num_channels = len(moments.mean)
    basis = torch.eye(num_channels, dtype=torch.float64) if rotation is None else rotation.double()
    rows = sorted(kept)
    if not rows or len(set(rows)) < len(rows) or rows[0] < 0 or rows[-1] >= num_channels:
        raise ValueError(f"kept is {list(kept)}: it must be distinct channels of {num_channels}.")
    removed = [index for index in range(num_channels) if index not in set(rows)]
    encode, rest = basis[rows], basis[removed]  # (K, C), (C − K, C)
    if fill == "zero":
        return LatentMap(encode, encode.T, torch.zeros_like(moments.mean))
    missing = rest.T @ (rest @ moments.mean)  # (C,)
    if fill == "mean":
        return LatentMap(encode, encode.T, missing)
    covariance = moments.covariance
    among = encode @ covariance @ encode.T  # (K, K)
    across = rest @ covariance @ encode.T  # (C − K, K)
    weights = across @ torch.linalg.pinv(among, hermitian=True, rtol=1e-10)
    decode = encode.T + rest.T @ weights  # (C, K)
    return LatentMap(encode, decode, missing - rest.T @ (weights @ (encode @ moments.mean)))


def predict_noisy(latent_map: LatentMap, covariance: Tensor) -> Tensor:
    """What stands in for noisy latents in front of the denoiser = this matrix · kept noisy ones.

    Where the map predicts removed channels, they are predicted here too: linearly, at the noise
    level at which latents and noise weigh the same (ᾱ = ½), since weights do not know the timestep.
    Elsewhere they are zero. Ours.

    At that level noisy latents have a covariance proportional to Σ + 1, and the best linear
    prediction from the kept ones, E of them, is (Σ + 1) Eᵀ (E (Σ + 1) Eᵀ)⁻¹. E's rows are
    orthonormal, so its kept part is Eᵀ, and its removed part (1 − Eᵀ E) Σ Eᵀ (E Σ Eᵀ + 1)⁻¹.

    Args:
        latent_map: Between latents as the denoiser sees them.
        covariance: Of those, (C, C).

    Returns:
        (C, K), float64; its kept part is the identity.
    """
    encode = latent_map.encode
    if not latent_map.predicts:
        return encode.T
    across = covariance @ encode.T  # (C, K)
    noise = torch.eye(len(encode), dtype=torch.float64)
    weights = torch.linalg.solve(encode @ across + noise, across, left=False)  # (C, K)
    return encode.T + weights - encode.T @ (encode @ weights)


def find_rotation(
    kind: Rotation, moments: LatentMoments, metric: Tensor | None, num_kept: int
) -> Tensor | None:
    """An orthonormal basis (C, C) whose first directions matter most; None for kind "none".

    "pca": eigenvectors of the covariance Σ, by falling eigenvalue. "decoder": what decoding costs
    to second order is xᵀ M x, so the best K-dimensional linear code is spanned by the leading
    eigenvectors U of M^½ Σ M^½; kept are the K directions that read it, Mᵀ^½ U made orthonormal
    (a linear fill then predicts the rest), and the others complete the basis by Σ.

    Args:
        kind: Which basis.
        moments: Of the latents.
        metric: M = E[JᵀJ] of the decoder's Jacobian, (C, C); needed by "decoder".
        num_kept: K, the directions that "decoder" is to find.

    Raises:
        ValueError: If "decoder" lacks its metric, or the kind is unknown.
    """
    if kind == "none":
        return None
    covariance = moments.covariance.double()
    if kind == "pca":
        return _eigenvectors(covariance).T
    if kind != "decoder":
        raise ValueError(f"Unknown rotation {kind!r}: known are {', '.join(ROTATIONS)}.")
    if metric is None:
        raise ValueError("Rotation decoder needs the decoder's metric.")
    root = _square_root(metric.double())  # (C, C)
    leading = _eigenvectors(root @ covariance @ root)[:, :num_kept]  # (C, K)
    kept, _ = torch.linalg.qr(root @ leading)  # (C, K): spans what reads the code
    inside = _eigenvectors(kept.T @ covariance @ kept)  # (K, K)
    kept = kept @ inside
    outside = torch.eye(len(covariance), dtype=torch.float64) - kept @ kept.T
    rest = _eigenvectors(outside @ _eigen_shift(covariance) @ outside)
    rest = rest[:, : len(covariance) - num_kept]
    return torch.cat([kept, rest], dim=1).T


def _eigen_shift(covariance: Tensor) -> Tensor:
    """Σ made positive definite, so that no direction ties with those projected away."""
    scale = covariance.diagonal().mean()
    return covariance + scale * torch.eye(len(covariance), dtype=covariance.dtype)


def _eigenvectors(symmetric: Tensor) -> Tensor:
    """Columns by falling eigenvalue, each with its largest entry positive."""
    vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2).eigenvectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * largest.sign()


def _square_root(metric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((metric + metric.T) / 2)
    return vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
