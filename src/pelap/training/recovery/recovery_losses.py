"""One step of recovery: pictures and draws in, losses out, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pelap.families.conditioned import Told, bare
from pelap.method.losses import LossTerms
from pelap.method.system import LatentDiffusion
from pelap.training.recovery.taps import Listener, relative_feature_loss


@dataclass(frozen=True)
class RecoveryBatch:
    """What the student is shown, and what it should give."""

    latents: Tensor | None = None
    """Of the pictures, as the student's encoder draws them, (B, K, …); None where the decoder is
    not trained."""
    images: Tensor | None = None
    """(B, 3, H, W) in [-1, 1], what they should decode to."""
    teacher_images: Tensor | None = None
    """What the teacher decodes of its own means, (B, 3, H, W)."""
    noisy: Tensor | None = None
    """(B, K, …); None where the denoiser is not trained."""
    timesteps: Tensor | None = None
    """(B,)."""
    target: Tensor | None = None
    """Noise or velocity, (B, K, …)."""
    teacher_prediction: Tensor | None = None
    """(B, K, …), in the student's channels."""
    told: Told | None = None
    """What student and teacher are told of each picture; None for nothing."""
    teacher_features: tuple[Tensor, ...] | None = None
    """What leaves the teacher's blocks, at the features that the student kept, (B, D, …)."""


@dataclass(frozen=True)
class RecoveryLosses(LossTerms):
    """The terms of a recovery, see `recovery_losses`."""

    reconstruction_loss: Tensor | None = None
    teacher_reconstruction_loss: Tensor | None = None
    noise_loss: Tensor | None = None
    teacher_noise_loss: Tensor | None = None
    feature_loss: Tensor | None = None


class StudentOutput(NamedTuple):
    """What the student gives; None where it was not asked."""

    decoded: Tensor | None = None
    """(B, 3, H, W)."""
    prediction: Tensor | None = None
    """(B, K, …)."""
    features: tuple[Tensor, ...] | None = None
    """(B, D, …) of each block that is compared."""


class TrainedNetworks(nn.Module):
    """Decoder and denoiser as one module, for accelerate to wrap.

    Args:
        system: The student.
        blocks: Of its denoiser, whose features are compared with the teacher's.
    """

    def __init__(self, system: LatentDiffusion, blocks: Sequence[str] = ()):
        super().__init__()
        self.system = system
        self.listener = Listener(bare(system.denoiser), blocks) if blocks else None

    def forward(
        self,
        latents: Tensor | None,
        noisy: Tensor | None,
        timesteps: Tensor | None,
        told: Told | None = None,
    ) -> StudentOutput:
        """Decode latents (B, K, …), predict for noisy ones (B, K, …) at timesteps (B,)."""
        decoded = None if latents is None else self.system.decode(latents)
        if noisy is None or timesteps is None:
            return StudentOutput(decoded)
        prediction = self.system.predict(noisy, timesteps, told)
        features = None if self.listener is None else tuple(self.listener.take())
        return StudentOutput(decoded, prediction, features)


def recovery_losses(
    output: StudentOutput,
    batch: RecoveryBatch,
    teacher_weight: float,
    feature_weight: float = 0.0,
) -> RecoveryLosses:
    """MSE(decoded, images) + w·MSE(decoded, teacher's) + the same two for the prediction + v·loss
    of the features. Ours.

    Decoder and denoiser share no weight, so their terms need no weight against each other.

    Args:
        output: The student's.
        batch: What it should be.
        teacher_weight: w.
        feature_weight: v.
    """
    decoded, prediction = output.decoded, output.prediction
    features = None
    if output.features is not None and batch.teacher_features is not None:
        features = relative_feature_loss(output.features, batch.teacher_features)
    return RecoveryLosses.weighted(
        reconstruction_loss=(1.0, _mse(decoded, batch.images)),
        teacher_reconstruction_loss=(teacher_weight, _mse(decoded, batch.teacher_images)),
        noise_loss=(1.0, _mse(prediction, batch.target)),
        teacher_noise_loss=(teacher_weight, _mse(prediction, batch.teacher_prediction)),
        feature_loss=(feature_weight, features),
    )


def _mse(given: Tensor | None, wanted: Tensor | None) -> Tensor | None:
    return None if given is None or wanted is None else F.mse_loss(given, wanted)
