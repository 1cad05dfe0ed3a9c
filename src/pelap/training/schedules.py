"""Learning rates as functions of how far a training is. No torch here."""

import math

from pelap.config.run_config import OptimizerConfig


def half_cosine(fraction: float) -> float:
    """From 1 at fraction 0 to 0 at fraction 1, flat at both ends (arXiv 1608.03983, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


def cosine_learning_rate(epoch: float, num_epochs: float, config: OptimizerConfig) -> float:
    """Learning rate after `epoch` of `num_epochs`: half a cosine from the first to the final."""
    first, final = config.learning_rate, config.final_learning_rate
    return final + (first - final) * half_cosine(epoch / num_epochs)


def trapezoid_learning_rate(epochs_left: float, config: OptimizerConfig) -> float:
    """Learning rate with so many epochs to go: constant, then a linear fall to the final one.

    What Hägele et al. (arXiv 2405.18392) call a constant rate with cooldown.
    """
    first, final = config.learning_rate, config.final_learning_rate
    cooldown = config.cooldown_epochs
    return first if epochs_left >= cooldown else final + (first - final) * epochs_left / cooldown
