"""The learning rate and the losses of a recovery, from closed forms."""

import math

import pytest
import torch

from pelap.training.recovery.recovery_losses import RecoveryBatch, StudentOutput, recovery_losses
from pelap.training.recovery.recovery_settings import RecoverySettings


def test_learning_rate_rises_then_falls():
    settings = RecoverySettings(steps=100, learning_rate=2.0)
    assert settings.rate(0) == pytest.approx(2.0 / 5)
    assert settings.rate(4) == settings.rate(5) == pytest.approx(2.0)
    assert settings.rate(99) == pytest.approx(1 + math.cos(math.pi * 94 / 95))
    assert RecoverySettings(steps=1, learning_rate=2.0).rate(0) == 2.0


def test_losses_are_sums_of_mean_squares():
    images, latents = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 2, 2)
    batch = RecoveryBatch(
        latents, images, images + 3, latents, torch.zeros(2), latents + 1, latents + 5
    )
    losses = recovery_losses(StudentOutput(images + 1, latents + 2), batch, teacher_weight=0.5)
    assert [float(value) for value in losses.named().values()] == [8.5, 1.0, 4.0, 1.0, 9.0]
    alone = recovery_losses(
        StudentOutput(images + 1), RecoveryBatch(latents, images), teacher_weight=0.5
    )
    assert list(alone.named()) == ["total_loss", "reconstruction_loss"]


def test_features_are_compared_relative_to_their_size():
    wanted = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)  # variance 1
    batch = RecoveryBatch(teacher_features=(wanted, 10 * wanted), noisy=wanted, target=wanted)
    output = StudentOutput(prediction=wanted, features=(wanted + 2, 10 * wanted))
    losses = recovery_losses(output, batch, teacher_weight=1.0, feature_weight=0.5)
    assert float(losses.feature_loss or 0) == pytest.approx((4 + 0) / 2)
    assert float(losses.total_loss) == pytest.approx(1.0)
