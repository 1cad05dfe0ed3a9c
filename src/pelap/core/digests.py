"""One way to tell contents apart: SHA-256 over texts, plain values, tensors and networks."""

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn


def digest(*parts: object) -> str:
    """A hash, 64 hexadecimal digits, of all that the parts hold, in their order.

    Args:
        parts: Tensors count with type, shape and values, wherever they are; networks with their
            public config, where they have one, and their named weights; everything else as JSON.
    """
    found = hashlib.sha256()
    for part in parts:
        _add(found, part)
    return found.hexdigest()


def _add(found: Any, part: object) -> None:
    if isinstance(part, Tensor):
        values = part.detach().cpu().contiguous()
        found.update(f"{values.dtype} {tuple(values.shape)}".encode())
        found.update(values.flatten().view(torch.uint8).numpy().data)
    elif isinstance(part, nn.Module):
        config: Any = getattr(part, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else config  # transformers' own
        _add(found, {name: value for name, value in config.items() if not name.startswith("_")})
        for name, tensor in part.state_dict().items():
            found.update(name.encode())
            _add(found, tensor)
    else:
        found.update(json.dumps(part, sort_keys=True, default=str).encode())
