"""One step of training or validation: tensors in, losses out, no files."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pelap.config import Precision, RunConfig
from pelap.losses import Losses, objective
from pelap.seeding import generator
from pelap.system import Draws, SystemOutput, latent_shape


@dataclass(frozen=True)
class StepOutput:
    """What one batch gave."""

    losses: Losses
    mask_mean: Tensor
    """Mean mask of each channel, (C,)."""


def make_draws(
    config: RunConfig,
    batch_size: int,
    stream: str,
    index: int,
    device: torch.device,
    *,
    seed: int | None = None,
) -> Draws:
    """The random numbers of batch `index`, the same whatever the number of processes.

    Args:
        config: Gives the shapes, and the seed unless `seed` does.
        batch_size: Samples over all processes.
        stream: One of seeding.STREAMS.
        index: Step or batch number.
        device: Where the numbers are drawn and stay.
        seed: Overrides the run's seed.
    """
    source = generator(config.run.seed if seed is None else seed, stream, index, device)
    shape = (batch_size, *latent_shape(config))
    return Draws(
        latent_noise=torch.randn(shape, generator=source, device=device),
        noise=torch.randn(shape, generator=source, device=device),
        timesteps=torch.randint(
            config.noise.num_timesteps, (batch_size,), generator=source, device=device
        ),
    )


def forward_step(system: nn.Module, images: Tensor, draws: Draws, config: RunConfig) -> StepOutput:
    """Losses and mean mask of a batch of images (B, 3, H, W) in [-1, 1].

    The networks run in the config's precision; losses are float32.
    """
    use_bf16 = uses_bf16(config.run.precision, images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=use_bf16):
        output: SystemOutput = system(images, draws)
    losses = objective(
        output, images, draws.noise, config.objective, gated=config.gate.kind != "open"
    )
    return StepOutput(losses, output.gate.mask.detach().mean(dim=0))


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    draws: Draws,
    config: RunConfig,
    accelerator: Accelerator,
) -> tuple[StepOutput, Tensor]:
    """Forward, backward, clip, update.

    Returns:
        What the batch gave before the update, and the norm of its gradient before clipping.
    """
    model.train()
    output = forward_step(model, images, draws, config)
    accelerator.backward(output.losses.total_loss)
    limit = config.optimizer.max_gradient_norm or float("inf")
    norm = accelerator.clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    optimizer.zero_grad()
    return output, torch.as_tensor(norm)


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: "auto" does where the hardware is made for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    native = any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cpu" and native


def cosine_learning_rate(epoch: int, config: RunConfig) -> float:
    """Learning rate of an epoch (from 0): half a cosine from the first to the final rate."""
    first, final = config.optimizer.learning_rate, config.optimizer.final_learning_rate
    phase = torch.tensor(torch.pi * epoch / config.run.epochs, dtype=torch.float64)
    return final + 0.5 * (first - final) * (1 + float(torch.cos(phase)))
