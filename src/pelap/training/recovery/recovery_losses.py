"""One step of recovery: pictures and draws in, losses out, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.core.seeding import generator
from pelap.families.conditioned import bare
from pelap.method.losses import LossTerms
from pelap.method.system import LatentDiffusion, sample_moments
from pelap.training.recovery.student import Student, Teacher
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
        self, latents: Tensor | None, noisy: Tensor | None, timesteps: Tensor | None
    ) -> StudentOutput:
        """Decode latents (B, K, …), predict for noisy ones (B, K, …) at timesteps (B,)."""
        decoded = None if latents is None else self.system.decode(latents)
        if noisy is None or timesteps is None:
            return StudentOutput(decoded)
        prediction = self.system.predict(noisy, timesteps)
        features = None if self.listener is None else tuple(self.listener.take())
        return StudentOutput(decoded, prediction, features)


@torch.no_grad()
def make_batch(
    student: Student,
    teacher: Teacher | None,
    images: Tensor,
    *,
    seed: int,
    step: int,
    batch_size: int,
    share: slice,
) -> RecoveryBatch:
    """Draw latents, timesteps and noise for the whole batch, and take this process's part.

    With E the way from the teacher's channels to the student's (1 without a teacher) and x the
    teacher's latents: the student sees E·x_t, its target is E·ε or E·v, and the teacher's
    prediction at x_t is carried over as E·prediction. Rows of E are orthonormal, so E·ε is noise.

    Args:
        student: Whose weights say what is taught.
        teacher: Or None.
        images: This process's, (B, 3, H, W) in [-1, 1].
        seed: Of the draws.
        step: Number of the step, from 0: what is drawn is a function of it.
        batch_size: Pictures of all processes.
        share: Which of them are this process's.
    """
    device, system = images.device, student.system
    source_system, carry = (teacher.system, teacher.to_student) if teacher else (system, _same)
    whole = source_system.encode_moments(images)  # (B, 2C, …)
    source = generator(seed, "draws", step, device)
    shape = (batch_size, whole.shape[1] // 2, *whole.shape[2:])
    latent_noise = torch.randn(shape, generator=source, device=device)[share]
    noise = torch.randn(shape, generator=source, device=device)[share]
    num_timesteps = len(system.scheduler.alphas_cumprod)
    timesteps = torch.randint(num_timesteps, (batch_size,), generator=source, device=device)[share]
    latents = decoded = noisy = target = prediction = features = None
    if student.trains_decoder:
        own = whole if teacher is None else system.encode_moments(images)  # (B, 2K, …)
        latents = sample_moments(own, carry(latent_noise)).latents
        if teacher is not None:
            decoded = teacher.system.decode(whole.chunk(2, dim=1)[0])
    if system.denoiser is not None:
        drawn = sample_moments(whole, latent_noise).latents  # (B, C, …)
        noisy, target = system.noised(drawn, noise, timesteps)  # (B, C, …) each
        if teacher is not None and teacher.system.denoiser is not None:
            prediction = carry(teacher.system.predict(noisy, timesteps))
        if teacher is not None and teacher.listener is not None:
            features = tuple(
                given if tap.features is None else given[:, tap.features.to(given.device)]
                for given, tap in zip(teacher.listener.take(), teacher.taps, strict=True)
            )
        noisy, target = carry(noisy), carry(target)
    return RecoveryBatch(latents, images, decoded, noisy, timesteps, target, prediction, features)


def _same(latents: Tensor) -> Tensor:
    return latents


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
