"""One step of recovery: pictures and draws in, losses out, no files."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.recovery.student import Teacher
from pelap.seeding import generator
from pelap.system import LatentDiffusion, sample_moments


@dataclass(frozen=True)
class Lesson:
    """What the student is shown, and what it should answer; the optional ones come together."""

    latents: Tensor
    """Of the pictures, as the student's encoder draws them, (B, K, h, w)."""
    images: Tensor
    """(B, 3, H, W) in [-1, 1], what they should decode to."""
    teacher_images: Tensor | None = None
    """What the teacher decodes of its own means, (B, 3, H, W)."""
    noisy: Tensor | None = None
    """(B, K, h, w); None where the denoiser is not trained."""
    timesteps: Tensor | None = None
    """(B,)."""
    target: Tensor | None = None
    """Noise or velocity, (B, K, h, w)."""
    teacher_prediction: Tensor | None = None
    """(B, K, h, w), in the student's channels."""


@dataclass(frozen=True)
class RecoveryLosses:
    """Scalars; None where there is no such term."""

    total_loss: Tensor
    reconstruction_loss: Tensor
    teacher_reconstruction_loss: Tensor | None
    noise_loss: Tensor | None
    teacher_noise_loss: Tensor | None

    def named(self) -> dict[str, Tensor]:
        """Those that there are, detached."""
        return {name: value.detach() for name, value in vars(self).items() if value is not None}


class Answers(nn.Module):
    """Decoder and denoiser as one module, for accelerate to wrap."""

    def __init__(self, system: LatentDiffusion):
        super().__init__()
        self.system = system

    def forward(
        self, latents: Tensor, noisy: Tensor | None, timesteps: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Decoded latents (B, 3, H, W), and the denoiser's prediction (B, K, h, w)."""
        decoded = self.system.decode(latents)
        if noisy is None:
            return decoded, None
        return decoded, self.system.denoiser(noisy, timesteps).sample.float()


@torch.no_grad()
def make_lesson(
    system: LatentDiffusion,
    teacher: Teacher | None,
    images: Tensor,
    *,
    seed: int,
    step: int,
    batch_size: int,
    share: slice,
) -> Lesson:
    """Draw latents, timesteps and noise for the whole batch, and take this process's part.

    With E the way from the teacher's channels to the student's (1 without a teacher) and x the
    teacher's latents: the student sees E·x_t, its target is E·ε or E·v, and the teacher's
    prediction at x_t is carried over as E·prediction. Rows of E are orthonormal, so E·ε is noise.

    Args:
        system: The student's.
        teacher: Or None.
        images: This process's, (B, 3, H, W) in [-1, 1].
        seed: Of the draws.
        step: Likewise.
        batch_size: Pictures of all processes.
        share: Which of them are this process's.
    """
    device = images.device
    own = system.encode_moments(images)  # (B, 2K, h, w)
    whole = own if teacher is None else teacher.system.encode_moments(images)  # (B, 2C, h, w)
    source = generator(seed, "draws", step, device)
    shape = (batch_size, whole.shape[1] // 2, *whole.shape[2:])
    latent_noise = torch.randn(shape, generator=source, device=device)[share]
    noise = torch.randn(shape, generator=source, device=device)[share]
    num_timesteps = len(system.scheduler.alphas_cumprod)
    timesteps = torch.randint(num_timesteps, (batch_size,), generator=source, device=device)[share]
    own_noise = latent_noise if teacher is None else teacher.to_student(latent_noise)
    latents = sample_moments(own, own_noise).latents  # (B, K, h, w)
    found: dict[str, Any] = {}
    if teacher is not None:
        found["teacher_images"] = teacher.system.decode(whole.chunk(2, dim=1)[0])
    if system.denoiser is not None:
        drawn = sample_moments(whole, latent_noise).latents  # (B, C, h, w)
        found |= _noise(system, teacher, drawn, noise, timesteps)
    return Lesson(latents, images, **found)


def _noise(
    system: LatentDiffusion,
    teacher: Teacher | None,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> dict[str, Tensor]:
    scheduler: Any = system.scheduler
    noisy = scheduler.add_noise(latents, noise, timesteps)  # (B, C, h, w)
    target = noise
    if system.predicts_velocity:
        target = scheduler.get_velocity(latents, noise, timesteps)
    if teacher is None:
        return {"noisy": noisy, "timesteps": timesteps, "target": target}
    shown = {
        "noisy": teacher.to_student(noisy),
        "timesteps": timesteps,
        "target": teacher.to_student(target),
    }
    if teacher.system.denoiser is not None:
        prediction = teacher.system.denoiser(noisy, timesteps).sample.float()
        shown["teacher_prediction"] = teacher.to_student(prediction)
    return shown


def recovery_losses(
    decoded: Tensor, prediction: Tensor | None, lesson: Lesson, teacher_weight: float
) -> RecoveryLosses:
    """MSE(decoded, images) + w·MSE(decoded, teacher's) + the same two for the prediction. Ours.

    Decoder and denoiser share no weight, so their terms need no weight against each other.

    Args:
        decoded: (B, 3, H, W).
        prediction: (B, K, h, w), or None.
        lesson: What they should be.
        teacher_weight: w.
    """
    reconstruction = F.mse_loss(decoded, lesson.images)
    of_teacher = _mse(decoded, lesson.teacher_images)
    noise, noise_of_teacher = (
        _mse(prediction, wanted) for wanted in (lesson.target, lesson.teacher_prediction)
    )
    total = reconstruction
    for value, weight in ((of_teacher, teacher_weight), (noise, 1.0),
                          (noise_of_teacher, teacher_weight)):  # fmt: skip
        total = total if value is None else total + weight * value
    return RecoveryLosses(total, reconstruction, of_teacher, noise, noise_of_teacher)


def _mse(given: Tensor | None, wanted: Tensor | None) -> Tensor | None:
    return None if given is None or wanted is None else F.mse_loss(given, wanted)
