"""Encoder, denoiser and decoder as modules that take and return nothing but named tensors."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pelap.core.errors import ConfigError, in_one_line
from pelap.families.family import Inputs
from pelap.families.latent_axes import by_channel
from pelap.families.registry import denoiser_family, example_inputs
from pelap.method.normalizer import LatentNormalizer
from pelap.method.pipeline import load_pipeline
from pelap.method.sampling import kept_channels
from pelap.models.foreign_autoencoder import NO_VARIANCE, ForeignAutoencoder
from pelap.models.loaded import LoadedModel

NUM_TIMESTEPS = 1000

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Graph:
    """A network that can be exported."""

    name: str
    """encoder, denoiser or decoder."""
    class_name: str
    module: nn.Module
    """From named inputs to named outputs."""
    inputs: Callable[[int, int], Tensors]
    """From a number of pictures B and a seed to random inputs."""
    shared: tuple[str, ...] = ()
    """Inputs that all pictures of a batch share."""

    @torch.no_grad()
    def run(self, inputs: Tensors) -> Tensors:
        """Outputs of torch."""
        return self.module(inputs)


class _EncoderGraph(nn.Module):
    """images (B, 3, H, W) → latents as the denoiser sees them, which are the means of their
    distribution, and logvar where there is one; both (B, C, h, w)."""

    def __init__(
        self, autoencoder: ForeignAutoencoder, normalizer: LatentNormalizer, has_variance: bool
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.normalizer = normalizer
        self.has_variance = has_variance

    def forward(self, inputs: Tensors) -> Tensors:
        found = self.autoencoder.encode(inputs["images"]).latent_dist
        mean = self.normalizer(found.mean)
        if not self.has_variance:
            return {"latents": mean}
        logvar = found.logvar - 2 * by_channel(self.normalizer.std.log(), mean)
        return {"latents": mean, "logvar": logvar}


class _DecoderGraph(nn.Module):
    """latents (B, C, h, w) as the denoiser sees them → images (B, 3, H, W)."""

    mask: Tensor | None

    def __init__(
        self, autoencoder: ForeignAutoencoder, normalizer: LatentNormalizer, mask: Tensor | None
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.normalizer = normalizer
        self.register_buffer("mask", mask)

    def forward(self, inputs: Tensors) -> Tensors:
        latents = _masked(inputs["latents"], self.mask)
        return {"images": self.autoencoder.decode(self.normalizer.inverse(latents)).sample}


class _DenoiserGraph(nn.Module):
    """A denoiser's inputs, by diffusers' names → prediction, shaped like its latents."""

    mask: Tensor | None

    def __init__(self, denoiser: nn.Module, template: Inputs, mask: Tensor | None):
        super().__init__()
        self.denoiser = denoiser
        self.template = template
        self.latents = next(iter(template))
        self.register_buffer("mask", mask)

    def forward(self, inputs: Tensors) -> Tensors:
        latents = _masked(inputs[self.latents], self.mask)
        values = _nest(self.template, inputs | {self.latents: latents})
        return {"prediction": self.denoiser(**values).sample}


def _masked(latents: Tensor, mask: Tensor | None) -> Tensor:
    return latents if mask is None else latents * by_channel(mask, latents)


def flatten(inputs: Inputs) -> Tensors:
    """Keyword arguments with dictionaries among them, as one dictionary of tensors."""
    flat: Tensors = {}
    for name, value in inputs.items():
        if isinstance(value, dict):
            flat |= flatten(value)
        elif value is not None:
            flat[name] = value
    return flat


def _nest(template: Inputs, flat: Tensors) -> Inputs:
    """The inverse of `flatten`; what is None in the template is None again."""
    return {
        name: _nest(value, flat) if isinstance(value, dict) else flat.get(name)
        for name, value in template.items()
    }


def build_graphs(model: LoadedModel, side: int | None) -> list[Graph]:
    """The networks of a model in float32: encoder, denoiser where there is one, decoder.

    Args:
        model: Of known classes.
        side: Height and width of the latents; by default what the model was made for.

    Raises:
        ConfigError: If the networks cannot run at that side.
        ModelError: If a class is unknown, or autoencoder and denoiser do not fit.
    """
    model.check()
    side = model.latent_side if side is None else side
    if side < 1:
        raise ConfigError(
            f"--size is {side}: give the height and width of the latents, at least 1."
        )
    mask = _latent_mask(model)
    try:
        graphs = _autoencoder_graphs(model, side, mask)
        if model.denoiser is not None:
            graphs.insert(1, _denoiser_graph(model.denoiser, side, mask))
        for graph in graphs:
            graph.run(graph.inputs(1, 0))
    except (RuntimeError, ValueError, AssertionError) as error:
        made_for = f"--size {side} (made for {model.latent_side})"
        raise ConfigError(f"The model cannot run at {made_for}: {in_one_line(error)}") from error
    return graphs


def _latent_mask(model: LoadedModel) -> Tensor | None:
    """Zero in the channels (C,) that the gate of a run has closed for good."""
    if model.config is None or model.folder is None or model.config.gate.kind == "open":
        return None
    kept = kept_channels(load_pipeline(model.folder).gate)
    return None if kept is None else kept.float()


def _autoencoder_graphs(model: LoadedModel, side: int, mask: Tensor | None) -> list[Graph]:
    network = ForeignAutoencoder(_as_float32(model.autoencoder)).eval()
    name, channels = type(model.autoencoder).__name__, model.num_channels
    normalizer = model.normalizer or LatentNormalizer(channels).eval()

    def latents(num_pictures: int, seed: int) -> Tensors:
        return {"latents": _normal(seed, num_pictures, channels, side, side)}

    decoder = Graph("decoder", name, _DecoderGraph(network, normalizer, mask).eval(), latents)
    shape = decoder.run(latents(1, 0))["images"].shape[1:]

    def images(num_pictures: int, seed: int) -> Tensors:
        return {"images": _normal(seed, num_pictures, *shape).clamp(-1, 1)}

    with torch.no_grad():
        logvar = network.encode(images(1, 0)["images"]).latent_dist.logvar
    has_variance = not bool((logvar == NO_VARIANCE).all())
    encoder = Graph(
        "encoder", name, _EncoderGraph(network, normalizer, has_variance).eval(), images
    )
    return [encoder, decoder]


def _denoiser_graph(denoiser: nn.Module, side: int, mask: Tensor | None) -> Graph:
    family = denoiser_family(denoiser)
    network = family.traceable(_as_float32(denoiser))

    def inputs(num_pictures: int, seed: int) -> Tensors:
        found = flatten(example_inputs(network, num_pictures, side, seed))
        source = torch.Generator().manual_seed(seed)
        steps = torch.randint(NUM_TIMESTEPS, (num_pictures,), generator=source)
        if family.has_float_timesteps:
            steps = steps.float() / family.timestep_divisor
        return found | {"timestep": steps}

    template = example_inputs(network, 1, side)
    module = _DenoiserGraph(network, template, mask).eval()
    return Graph("denoiser", family.class_name, module, inputs, family.shared_inputs)


def _as_float32(network: nn.Module) -> nn.Module:
    """The network itself, or a copy where its precision or place is another."""
    if all(p.dtype == torch.float32 and p.device.type == "cpu" for p in network.parameters()):
        return network.eval()
    return copy.deepcopy(network).float().cpu().eval()


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
