"""Who learns and who teaches: working copies, which weights are trained, and how latents relate."""

import copy
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pelap.core.errors import ConfigError
from pelap.families.registry import autoencoder_ports, config_of, denoiser_ports
from pelap.method.system import LatentDiffusion
from pelap.models.loaded import LoadedModel
from pelap.training.recovery.adapters import add_adapters
from pelap.training.recovery.recovery_settings import Parts, RecoverySettings
from pelap.training.recovery.taps import Listener, Tap, prunings_of

LATENTS_AGREE = 0.1
"""Largest error of the student's latents, over their size, that rounding and rotations explain."""


@dataclass(frozen=True)
class Student:
    """A copy of the pruned model in float32, whose encoder stays as it is.

    It stays in evaluation mode: norms keep their statistics and dropout is off, so that a step is a
    function of weights, pictures and draws alone.
    """

    model: LoadedModel
    """With the copies in place of its networks; a denoiser that is not trained is no copy."""
    system: LatentDiffusion
    """The same; its denoiser is None where it is not trained."""
    decoder_weights: list[nn.Parameter]
    """Empty where it is not trained."""
    denoiser_weights: list[nn.Parameter]
    """Empty where it is not trained."""

    @property
    def weights(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [*self.decoder_weights, *self.denoiser_weights]

    @property
    def trains_decoder(self) -> bool:
        return bool(self.decoder_weights)

    @property
    def trains_denoiser(self) -> bool:
        return bool(self.denoiser_weights)


@dataclass(frozen=True)
class Teacher:
    """The model before pruning, and the way from its latents to the student's."""

    model: LoadedModel
    """A copy in float32; a denoiser that teaches nothing is no copy."""
    system: LatentDiffusion
    """The same, without gradients; its denoiser is None where it teaches none."""
    encode: Tensor
    """(K, C), float32."""
    taps: tuple[Tap, ...] = ()
    """Blocks whose features the student learns too."""
    listener: Listener | None = None
    """To those of the teacher's denoiser."""

    def to_student(self, latents: Tensor) -> Tensor:
        """The student's latents (B, K, …), or noise, or velocities, of the teacher's."""
        with torch.autocast(latents.device.type, enabled=False):  # targets in full precision
            return torch.einsum("kc,bc...->bk...", self.encode.to(latents), latents)


def make_student(model: LoadedModel, settings: RecoverySettings, image: Tensor) -> Student:
    """Copy what is trained, and find its weights.

    Args:
        model: Left as it is.
        settings: Parts "all": what decoding uses and encoding does not, and the whole denoiser.
            "pruned": of those, the layers that carry the latent channels. "denoiser", "decoder":
            it alone. With "lora" the denoiser gets adapters, trained beside those layers.
        image: A picture of a size that the autoencoder takes, (1, 3, H, W) in [-1, 1].

    Raises:
        ConfigError: If nothing is left to train ("denoiser").
        ModelError: If the layers of this class are unknown ("pruned", "lora").
    """
    parts, uses_lora = settings.parts, settings.train == "lora"
    autoencoder = _copy(model.autoencoder)
    denoiser = None if parts == "decoder" or why_left(model) else model.denoiser
    denoiser = None if denoiser is None else _copy(denoiser)
    working = replace(model, autoencoder=autoencoder, denoiser=denoiser or model.denoiser)
    system = working.system().eval()
    if denoiser is None:
        system.denoiser = None  # type: ignore[assignment]
    if denoiser is None and (parts == "denoiser" or uses_lora):
        option = "--parts denoiser" if parts == "denoiser" else "--train lora"
        raise ConfigError(
            f"{option}: there is nothing to train, {why_left(model) or 'it has none'}."
        )
    decoder = {} if parts == "denoiser" else _decoder_weights(system, autoencoder, image)
    of_denoiser = {} if denoiser is None else dict(denoiser.named_parameters())
    if parts == "pruned":
        reads = autoencoder_ports(autoencoder)
        decoder = _of_layers(decoder, reads.decoder, reads.post_quant)
    if denoiser is not None and (parts == "pruned" or uses_lora):
        ports = denoiser_ports(denoiser)
        layers = (ports.input_norm, ports.input.layer, ports.output.layer)
        of_denoiser = _of_layers(of_denoiser, *layers)
        if uses_lora:
            of_denoiser |= add_adapters(denoiser, settings.rank, settings.seed, layers)
    system.requires_grad_(False)
    trained = Student(working, system, list(decoder.values()), list(of_denoiser.values()))
    for weight in trained.weights:
        weight.requires_grad_(True)
    return trained


def pruned_parts(model: LoadedModel, teacher: LoadedModel | None) -> Parts:
    """What there is to recover: the denoiser alone where no pruning took or turned a latent.

    Of the prunings in the model's record that the teacher's does not have.
    """
    since = prunings_of(model)[len(prunings_of(teacher)) if teacher is not None else 0 :]
    spared = [
        one["channels_after"] == one["channels_before"] and one["rotation"] == "none"
        for one in since
    ]
    trainable = model.denoiser is not None and why_left(model) is None
    return "denoiser" if spared and all(spared) and trainable else "all"


def typical_width(model: LoadedModel) -> float:
    """The median of its denoiser's layers' widths, or of its decoder's without one."""
    network = model.autoencoder if model.denoiser is None else model.denoiser
    return statistics.median(len(weight) for weight in network.parameters() if weight.dim() > 1)


def why_left(model: LoadedModel) -> str | None:
    """Why the denoiser is not trained; None if it is, or if there is none."""
    if model.denoiser is None:
        return None
    name = type(model.denoiser).__name__
    if model.system().denoiser is None:
        needs = f"{name} or its scheduler needs more than latents and a timestep of a beta schedule"
        hint = (
            "; pictures with captions, or of its classes, let it be trained, and --unconditional "
            "trains it without its condition"
        )
        return needs if model.condition is not None else needs + hint
    config = config_of(model.denoiser)
    predicts_more = config.get("out_channels") not in (None, model.num_channels)
    if predicts_more and model.condition is None:
        return f"{name} predicts variances too"
    return None


def make_teacher(
    teacher: LoadedModel,
    student: Student,
    encode: Tensor,
    image: Tensor,
    taps: Sequence[Tap] = (),
) -> Teacher:
    """Copy the teacher, and try whether its latents are those that the student was made from.

    Args:
        teacher: Left as it is.
        student: Whom it teaches.
        encode: From `find_encode`.
        image: A picture of a size that both autoencoders take, (1, 3, H, W) in [-1, 1].
        taps: Blocks whose features the student learns too.

    Raises:
        ConfigError: If they are not, or the two denoisers predict different things.
    """
    denoiser = None
    if student.trains_denoiser and why_left(teacher) is None and teacher.denoiser is not None:
        denoiser = _copy(teacher.denoiser)
    working = replace(teacher, autoencoder=_copy(teacher.autoencoder), denoiser=denoiser)
    system = working.system().eval().requires_grad_(False)
    if denoiser is not None and system.predicts_velocity != student.system.predicts_velocity:
        raise ConfigError(
            f"--teacher {teacher.name} and {student.model.name} predict different things, noise "
            "and velocity: they do not belong together."
        )
    listener = None
    if denoiser is not None and taps:
        listener = Listener(denoiser, [tap.teacher for tap in taps])
    shown = replace(working, denoiser=denoiser or teacher.denoiser)
    made = Teacher(shown, system, encode.float(), tuple(taps) if listener else (), listener)
    if student.model.denoiser is not None:  # without one, pruning gives the latents a new scale
        _check_latents(teacher, student, made, image)
    return made


@torch.no_grad()
def _check_latents(teacher: LoadedModel, student: Student, made: Teacher, image: Tensor) -> None:
    own = student.system.encode_moments(image).chunk(2, dim=1)[0]  # (1, K, …)
    whole = made.system.encode_moments(image).chunk(2, dim=1)[0]  # (1, C, …)
    fits = own.shape[2:] == whole.shape[2:]
    if not fits or (own - made.to_student(whole)).norm() > LATENTS_AGREE * own.norm():
        raise ConfigError(
            f"{student.model.name} was not pruned from --teacher {teacher.name}: the latents of "
            "the same picture differ. Give the model that it was pruned from."
        )


def find_encode(student: LoadedModel, teacher: LoadedModel) -> Tensor:
    """The matrix (K, C) from the teacher's latents to the student's, float64.

    The product of all prunings in the student's record that the teacher's does not have.

    Raises:
        ConfigError: If the record does not lead from one to the other.
    """
    prunings, known = prunings_of(student), prunings_of(teacher)
    if not prunings:
        raise ConfigError(
            f"{student.name} holds no record of a pruning, so what --teacher {teacher.name} knows "
            "cannot be carried over: leave --teacher out."
        )
    since = prunings[len(known) :]
    if not since or prunings[: len(known)] != known:
        raise ConfigError(f"{student.name} was not pruned from --teacher {teacher.name}.")
    before = since[0]["channels_before"]
    if before != teacher.num_channels:
        raise ConfigError(
            f"--teacher {teacher.name} has {teacher.num_channels} latent channels, but "
            f"{student.name} was pruned from {before}: give the model that it was pruned from."
        )
    encode = torch.eye(before, dtype=torch.float64)
    for pruning in since:
        if pruning["rotation"] == "none":
            encode = encode[pruning["kept"]]
        elif "encode" in pruning:
            encode = torch.tensor(pruning["encode"], dtype=torch.float64) @ encode
        else:
            raise ConfigError(
                f"{student.name} was rotated and its record does not say how: prune anew, or leave "
                "--teacher out."
            )
    return encode


def _copy(network: nn.Module) -> Any:
    return copy.deepcopy(network).float().requires_grad_(True).eval()


def _of_layers(weights: dict[str, nn.Parameter], *layers: str | None) -> dict[str, nn.Parameter]:
    prefixes = tuple(f"{layer}." for layer in layers if layer)
    return {name: weight for name, weight in weights.items() if name.startswith(prefixes)}


def _decoder_weights(
    system: LatentDiffusion, autoencoder: nn.Module, image: Tensor
) -> dict[str, nn.Parameter]:
    """What decoding uses and encoding does not, by name: where gradients of one alone arrive."""
    weights = dict(autoencoder.named_parameters())
    with torch.enable_grad():
        moments = system.encode_moments(image)  # (1, 2K, …)
        decoded = system.decode(moments.chunk(2, dim=1)[0].detach())
        encodes, decodes = (
            torch.autograd.grad(made.sum(), list(weights.values()), allow_unused=True)
            for made in (moments, decoded)
        )
    pairs = zip(weights.items(), encodes, decodes, strict=True)
    return {name: w for (name, w), encode, decode in pairs if encode is None and decode is not None}


@torch.no_grad()
def round_weights(student: Student, original: LoadedModel) -> None:
    """Round trained weights to the precision that they will be saved in."""
    for network, old in _pairs(student, original):
        for weight, before in zip(network.parameters(), old.parameters(), strict=True):
            weight.copy_(weight.to(before.dtype))


@torch.no_grad()
def restore_precision(student: Student, original: LoadedModel) -> None:
    """Back to the CPU and to the precision of the original, tensor by tensor."""
    for network, old in _pairs(student, original):
        network.cpu()
        precision = {name: tensor.dtype for name, tensor in old.state_dict().items()}
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.data = tensor.data.to(precision.get(name, tensor.dtype))


def _pairs(student: Student, original: LoadedModel) -> Iterable[tuple[nn.Module, nn.Module]]:
    yield student.model.autoencoder, original.autoencoder
    if student.trains_denoiser and student.model.denoiser and original.denoiser:
        yield student.model.denoiser, original.denoiser
