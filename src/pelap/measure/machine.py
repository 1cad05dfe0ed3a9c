"""What made a result: the kind of machine, and versions."""

import platform

import diffusers
import torch

import pelap


def versions() -> dict[str, str]:
    """Versions of what made a result."""
    return {
        "pelap": pelap.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def machine() -> str:
    """The kind of machine in a few words, without its name."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    features = torch.cpu.get_capabilities()
    native = [
        name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if features.get(name)
    ]
    kind = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{kind}, {native[0]}" if native else kind
