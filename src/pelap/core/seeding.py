"""Random numbers as a function of (seed, stream, index), so that resuming needs no saved state."""

import numpy as np
import torch

STREAMS = ("order", "flips", "draws", "validation", "sampling", "photos", "bootstrap", "drops")


def generator(
    seed: int, stream: str, index: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator for one purpose (`stream`) at one point (`index`, e.g. a step) of a run.

    Raises:
        ValueError: If `stream` is not one of STREAMS.
    """
    if stream not in STREAMS:
        raise ValueError(f"Unknown stream {stream!r}: known are {', '.join(STREAMS)}.")
    key = (seed, STREAMS.index(stream), index)
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(state)
