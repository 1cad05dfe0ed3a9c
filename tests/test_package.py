"""What the package promises by name, and the randomness that everything rests on."""

import pytest
import torch

import pelap
from pelap.core.seeding import generator

NAMES = {
    "CollapseWatch", "ImportancePredictor", "LatentDiffusionPipeline", "LatentGate",
    "PaperAutoencoder", "PaperUNet", "RunConfig",
    "adapt", "analyze", "compare", "diagnose", "evaluate", "export", "get_preset", "load_pipeline",
    "open_model", "pictures", "prompts", "prune", "recover", "report", "resume", "sample", "sweep",
    "train",
}  # fmt: skip


MISSING = {"Raises:"}


def test_exported_names_are_there_and_documented():
    assert set(pelap.__all__) == NAMES
    for name in pelap.__all__:
        exported = getattr(pelap, name)
        assert exported.__doc__
        if name.islower() and name not in ("get_preset", "load_pipeline"):
            assert f"pelap.{name}(" in exported.__doc__, name
            assert {"Args:", "Returns:", "Raises:"} - set(exported.__doc__.split()) <= MISSING, name
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
