"""What a network of diffusers is to a type checker."""

from typing import TYPE_CHECKING, Any, cast

from torch import nn

if TYPE_CHECKING:

    class Network(nn.Module):
        """A module, one of its layers too, whose config and parts are of its class's making."""

        config: Any

        def __getattr__(self, name: str) -> Any: ...
        def get_submodule(self, target: str) -> "Network": ...

else:
    Network = nn.Module


def as_network(module: nn.Module) -> Network:
    """The same module, for a type checker."""
    return cast(Network, module)
