"""A network in another precision, or compiled, behind float32 tensors."""

import copy
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn

from pelap.core.errors import ConfigError, in_one_line
from pelap.families.conditioned import Condition

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that there is not on a device.

    Raises:
        ConfigError: If it is unknown, or bfloat16 where the GPU computes none.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision is {precision!r}: known are {', '.join(PRECISIONS)}.")
    is_cuda = device.type == "cuda"
    if precision == "bf16" and is_cuda and not torch.cuda.is_bf16_supported(False):
        raise ConfigError("--precision bf16: this GPU does not compute in bfloat16; give fp32.")


Call = Callable[..., Any]
"""A way to run a network."""


class InPrecision(nn.Module):
    """A denoiser, or an autoencoder's decoder, whose weights have another precision.

    Takes and returns float32; the network that was given stays as it is.

    Args:
        network: Of diffusers' interface: `network(latents, …).sample` or
            `network.decode(latents).sample`.
        precision: Of weights and arithmetic.
        compiled: Whether torch.compile translates it, anew for every shape of its inputs. Calls
            raise ConfigError where it cannot.
        device: Where it computes.
    """

    def __init__(
        self,
        network: Any,
        precision: Precision,
        *,
        compiled: bool = False,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.dtype, device = DTYPES[precision], torch.device(device)
        if any((p.dtype, p.device.type) != (self.dtype, device.type) for p in network.parameters()):
            # diffusers' own `to` warns of layers to be kept in float32 even where there are none
            network = nn.Module.to(copy.deepcopy(network), device, self.dtype)
        self.network = network.eval()
        self.compiled = compiled
        self._calls: dict[str, Call] = {}

    def forward(self, latents: Tensor, *others: object, **inputs: object) -> DecoderOutput:
        """The denoiser's prediction; `inputs` are given to it as they are."""
        found = self._call("forward")(latents.to(self.dtype), *others, **inputs).sample
        return DecoderOutput(sample=found.float())

    @property
    def condition(self) -> Condition | None:
        """The denoiser's, where it has one."""
        return getattr(self.network, "condition", None)

    def native(self, noisy: Tensor, *others: object) -> Tensor:
        """What a conditioned denoiser itself says, see `ConditionedDenoiser.native`."""
        return self._call("native")(noisy.to(self.dtype), *others).float()

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Images (B, 3, H, W) of latents (B, C, h, w)."""
        found = self._call("decode")(latents.to(self.dtype))
        found = found if isinstance(found, Tensor) else found.sample
        return DecoderOutput(sample=found.float())

    def _call(self, name: str) -> Call:
        if name not in self._calls:
            call = getattr(self.network, name)
            self._calls[name] = _compile(call) if self.compiled else call
        return self._calls[name]


def _compile(call: Call) -> Call:
    from torch._dynamo.exc import TorchDynamoException

    translated = torch.compile(call, dynamic=False)

    def run(*arguments: object, **inputs: object) -> object:
        try:
            return translated(*arguments, **inputs)
        except TorchDynamoException as error:
            reason = in_one_line(error)
            raise ConfigError(f"--compile: torch.compile cannot do this here: {reason}") from error

    return run
