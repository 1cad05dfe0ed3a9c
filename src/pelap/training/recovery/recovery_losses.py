"""One step of recovery: pictures and draws in, losses out, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pelap.core.seeding import generator
from pelap.families.conditioned import bare
from pelap.method.system import LatentDiffusion, sample_moments
from pelap.training.recovery.student import Student, Teacher
from pelap.training.recovery.taps import Listener, feature_loss


@dataclass(frozen=True)
class Lesson:
    """What the student is shown, and what it should answer."""

    latents: Tensor | None = None
    """Of the pictures, as the student's encoder draws them, (B, K, h, w); None where the decoder
    is not trained."""
    images: Tensor | None = None
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
    teacher_features: tuple[Tensor, ...] | None = None
    """What leaves the teacher's blocks, at the features that the student kept, (B, D, h, w)."""


@dataclass(frozen=True)
class RecoveryLosses:
    """Scalars; None where there is no such term."""

    total_loss: Tensor
    reconstruction_loss: Tensor | None
    teacher_reconstruction_loss: Tensor | None
    noise_loss: Tensor | None
    teacher_noise_loss: Tensor | None
    feature_loss: Tensor | None

    def named(self) -> dict[str, Tensor]:
        """Those that there are, detached."""
        return {name: value.detach() for name, value in vars(self).items() if value is not None}


class Answer(NamedTuple):
    """What the student gives; None where it was not asked."""

    decoded: Tensor | None = None
    """(B, 3, H, W)."""
    prediction: Tensor | None = None
    """(B, K, h, w)."""
    features: tuple[Tensor, ...] | None = None
    """(B, D, h, w) each."""


class Answers(nn.Module):
    """Decoder and denoiser as one module, for accelerate to wrap.

    Args:
        system: The student.
        blocks: Of its denoiser, whose features are answers too.
    """

    def __init__(self, system: LatentDiffusion, blocks: Sequence[str] = ()):
        super().__init__()
        self.system = system
        self.listener = Listener(bare(system.denoiser), blocks) if blocks else None

    def forward(
        self, latents: Tensor | None, noisy: Tensor | None, timesteps: Tensor | None
    ) -> Answer:
        """Decode latents (B, K, h, w), predict for noisy ones at timesteps (B,)."""
        decoded = None if latents is None else self.system.decode(latents)
        if noisy is None:
            return Answer(decoded)
        prediction = self.system.denoiser(noisy, timesteps).sample.float()
        features = None if self.listener is None else tuple(self.listener.take())
        return Answer(decoded, prediction, features)


@torch.no_grad()
def make_lesson(
    student: Student,
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
        student: Whose weights say what is taught.
        teacher: Or None.
        images: This process's, (B, 3, H, W) in [-1, 1].
        seed: Of the draws.
        step: Likewise.
        batch_size: Pictures of all processes.
        share: Which of them are this process's.
    """
    device, system = images.device, student.system
    whole = (teacher.system if teacher else system).encode_moments(images)  # (B, 2C, h, w)
    source = generator(seed, "draws", step, device)
    shape = (batch_size, whole.shape[1] // 2, *whole.shape[2:])
    latent_noise = torch.randn(shape, generator=source, device=device)[share]
    noise = torch.randn(shape, generator=source, device=device)[share]
    num_timesteps = len(system.scheduler.alphas_cumprod)
    timesteps = torch.randint(num_timesteps, (batch_size,), generator=source, device=device)[share]
    found: dict[str, Any] = {}
    if student.trains_decoder:
        own = whole if teacher is None else system.encode_moments(images)  # (B, 2K, h, w)
        own_noise = latent_noise if teacher is None else teacher.to_student(latent_noise)
        found = {"latents": sample_moments(own, own_noise).latents, "images": images}
    if student.trains_decoder and teacher is not None:
        found["teacher_images"] = teacher.system.decode(whole.chunk(2, dim=1)[0])
    if system.denoiser is not None:
        drawn = sample_moments(whole, latent_noise).latents  # (B, C, h, w)
        found |= _noise(system, teacher, drawn, noise, timesteps)
    return Lesson(**found)


def _noise(
    system: LatentDiffusion,
    teacher: Teacher | None,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> dict[str, Any]:
    scheduler: Any = system.scheduler
    noisy = scheduler.add_noise(latents, noise, timesteps)  # (B, C, h, w)
    target = noise
    if system.predicts_velocity:
        target = scheduler.get_velocity(latents, noise, timesteps)
    if teacher is None:
        return {"noisy": noisy, "timesteps": timesteps, "target": target}
    shown: dict[str, Any] = {
        "noisy": teacher.to_student(noisy),
        "timesteps": timesteps,
        "target": teacher.to_student(target),
    }
    if teacher.system.denoiser is not None:
        prediction = teacher.system.denoiser(noisy, timesteps).sample.float()
        shown["teacher_prediction"] = teacher.to_student(prediction)
    if teacher.listener is not None:
        heard = zip(teacher.listener.take(), teacher.taps, strict=True)
        shown["teacher_features"] = tuple(
            one if tap.features is None else one[:, tap.features.to(one.device)]
            for one, tap in heard
        )
    return shown


def recovery_losses(
    answer: Answer, lesson: Lesson, teacher_weight: float, feature_weight: float = 0.0
) -> RecoveryLosses:
    """MSE(decoded, images) + w·MSE(decoded, teacher's) + the same two for the prediction + v·loss
    of the features. Ours.

    Decoder and denoiser share no weight, so their terms need no weight against each other.

    Args:
        answer: The student's.
        lesson: What it should be.
        teacher_weight: w.
        feature_weight: v.
    """
    terms = {
        "reconstruction_loss": (1.0, _mse(answer.decoded, lesson.images)),
        "teacher_reconstruction_loss": (
            teacher_weight, _mse(answer.decoded, lesson.teacher_images)
        ),
        "noise_loss": (1.0, _mse(answer.prediction, lesson.target)),
        "teacher_noise_loss": (teacher_weight, _mse(answer.prediction, lesson.teacher_prediction)),
        "feature_loss": (feature_weight, _features(answer, lesson)),
    }  # fmt: skip
    total = sum(weight * value for weight, value in terms.values() if value is not None)
    assert isinstance(total, Tensor)
    return RecoveryLosses(total, **{name: value for name, (_, value) in terms.items()})


def _features(answer: Answer, lesson: Lesson) -> Tensor | None:
    if answer.features is None or lesson.teacher_features is None:
        return None
    return feature_loss(answer.features, lesson.teacher_features)


def _mse(given: Tensor | None, wanted: Tensor | None) -> Tensor | None:
    return None if given is None or wanted is None else F.mse_loss(given, wanted)
