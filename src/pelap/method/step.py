"""One step of training or validation: tensors in, losses out, no files."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pelap.config.run_config import Precision, RunConfig
from pelap.core.seeding import generator
from pelap.families.conditioned import Told
from pelap.families.latent_axes import axes_of, by_channel
from pelap.method.cifar_resnet import CifarResNet, fuse_batch_norms, load_cifar_resnet
from pelap.method.losses import Losses, objective
from pelap.method.system import Draws, Stage, SystemOutput, latent_shape

MOST_TOKENS_UNFUSED = 256
"""More would need much memory for their attention."""


@dataclass(frozen=True)
class StepOutput:
    """What one batch gave. All of it averages over batches and processes."""

    losses: Losses
    mask_mean: Tensor
    """Mean mask of each channel, (C,)."""
    masked_mean: Tensor
    """Mean of each channel of the masked latents, (C,)."""
    masked_square: Tensor
    """Mean square of the same, (C,)."""

    @property
    def total_loss(self) -> Tensor:
        """What is minimised, scalar."""
        return self.losses.total_loss

    def figures(self) -> dict[str, float | list[float]]:
        """What a line of metrics says of it: the losses and the mean mask."""
        return {**self.losses.figures(), "mask_mean": self.mask_mean.tolist()}

    def masked_latent_std(self) -> Tensor:
        """Standard deviation of each channel of the masked latents, (C,)."""
        return (self.masked_square - self.masked_mean.square()).clamp(min=0).sqrt()

    def to_vector(self) -> Tensor:
        """All numbers in one tensor, detached, to be averaged."""
        means = (self.mask_mean, self.masked_mean, self.masked_square)
        return torch.cat([self.losses.to_vector(), *means])

    def from_vector(self, values: Tensor) -> "StepOutput":
        """The numbers of `to_vector`, in the shape of this output."""
        num = len(self.losses.named())
        return StepOutput(self.losses.from_vector(values[:num]), *values[num:].chunk(3))


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
    num = config.noise.num_timesteps

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=source, device=device)

    latent_noise, noise = (torch.randn(shape, generator=source, device=device) for _ in range(2))
    timesteps = torch.randint(num, (batch_size,), generator=source, device=device)
    gate_noise = uniform(*shape[:2])
    drops = uniform(batch_size) < config.objective.condition_dropout
    if config.noise.process == "flow" and stream == "draws":
        # logit-normal, as Esser et al. found best (arXiv 2403.03206); measured evenly all the same
        normal = torch.randn(batch_size, generator=source, device=device)
        timesteps = (num * normal.sigmoid()).long().clamp(max=num - 1)
    return Draws(latent_noise, noise, timesteps, gate_noise, drops)


def forward_step(
    system: nn.Module,
    inputs: Tensor,
    draws: Draws,
    config: RunConfig,
    stage: Stage = "joint",
    told: Told | None = None,
    feature_network: CifarResNet | None = None,
) -> StepOutput:
    """Losses and mean mask of a batch of images (B, 3, H, W) in [-1, 1], or of cached moments.

    The networks run in the config's precision; losses are float32.
    """
    with in_precision(config.run.precision, inputs.device), _attention(config, inputs.device):
        output: SystemOutput = system(inputs, draws, stage, told)
        if feature_network is not None and output.reconstruction is not None:
            output = _with_features(output, inputs, feature_network)
    gated = config.gate.kind != "open" and stage != "denoiser"
    losses = objective(output, inputs, config.objective, gated, config.autoencoder)
    mask = output.gate.mask.detach()
    latents = output.latent.latents.detach()
    masked = latents * by_channel(mask, latents)  # (B, C, …)
    within = (0, *axes_of(masked))
    return StepOutput(
        losses, mask.mean(dim=0), masked.mean(dim=within), masked.square().mean(dim=within)
    )


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    draws: Draws,
    config: RunConfig,
    accelerator: Accelerator,
) -> StepOutput:
    """What the first stage's loop does with a batch of images (B, 3, H, W), all at once."""
    model.train()
    output = forward_step(model, images, draws, config)
    limit = config.optimizer.max_gradient_norm or float("inf")
    accelerator.backward(output.total_loss)
    update(optimizer, [list(model.parameters())], limit, accelerator, output.total_loss)
    return output


def update(
    optimizer: torch.optim.Optimizer,
    clipped: Sequence[Sequence[nn.Parameter]],
    max_norm: float,
    accelerator: Accelerator,
    loss: Tensor,
) -> Tensor:
    """Clip the gradients, step, and begin new ones; without the step where loss or gradients are
    not finite in any process.

    Args:
        optimizer: Of the weights.
        clipped: Weights whose gradients are clipped together, at `max_norm`.
        max_norm: Greatest norm, infinite for none.
        accelerator: Whose `backward` made the gradients.
        loss: That they are of, scalar.

    Returns:
        The norm of all their gradients before clipping, scalar; not finite if there was no step.
    """
    norms = [accelerator.clip_grad_norm_(weights, max_norm) for weights in clipped]
    norm = torch.stack([torch.as_tensor(norm) for norm in norms]).norm()
    if accelerator.num_processes > 1:  # gradients are the same in all, losses are not
        summed = accelerator.reduce(loss.detach())
        assert isinstance(summed, Tensor)
        loss = summed
    norm = torch.where(loss.detach().isfinite().to(norm.device), norm, torch.nan)
    if torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def _attention(config: RunConfig, device: torch.device) -> AbstractContextManager[object]:
    """torch's fused attention on a CPU takes most of a step going backward over few tokens."""
    side = latent_shape(config)[1]
    if device.type == "cpu" and side**2 <= MOST_TOKENS_UNFUSED:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _with_features(output: SystemOutput, images: Tensor, network: CifarResNet) -> SystemOutput:
    assert output.reconstruction is not None
    ours = network.block_features((output.reconstruction + 1) / 2)
    with torch.no_grad():
        theirs = network.block_features((images + 1) / 2)
    return replace(output, features=(ours, theirs))


def load_feature_network(config: RunConfig, device: torch.device) -> CifarResNet | None:
    """What the feature loss compares with: a frozen ResNet-32; None where the loss is off.

    Raises:
        DataError: If its weights are missing or broken.
    """
    if not config.autoencoder.feature_weight:
        return None
    network = CifarResNet(depth=32)
    load_cifar_resnet(network, 32)
    fuse_batch_norms(network.eval())
    return network.requires_grad_(False).to(device)


def in_precision(precision: Precision, device: torch.device) -> torch.autocast:
    """In which networks compute in bfloat16 where `uses_bf16` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """What a precision means on a device: "fp32" or "bf16"."""
    return "bf16" if uses_bf16(precision, device) else "fp32"


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: "auto" does where the hardware is made for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    native = any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cpu" and native
