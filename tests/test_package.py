"""What the package promises by name, and the randomness that everything rests on."""

import pytest
import torch

import pelap
from pelap.core.seeding import generator


def test_exported_names_are_there():
    for name in pelap.__all__:
        assert getattr(pelap, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pelap.nothing


def draw(seed: int, stream: str, index: int) -> list[float]:
    return torch.rand(4, generator=generator(seed, stream, index)).tolist()


def test_random_numbers_are_a_function_of_seed_stream_and_index():
    assert draw(1, "draws", 2) == draw(1, "draws", 2)
    others = [draw(2, "draws", 2), draw(1, "flips", 2), draw(1, "draws", 3)]
    assert all(draw(1, "draws", 2) != other for other in others)


def test_an_unknown_stream_is_an_error():
    with pytest.raises(ValueError, match="nonsense"):
        generator(0, "nonsense")
