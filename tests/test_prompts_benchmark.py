"""The pictures of benchmarks/shapes.py, their judge, and the model that is told about them."""

from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import shapes

    return shapes


def test_the_judge_reads_true_pictures(shapes: Any):
    scenes = shapes.ALL * 5
    pictures = shapes.draw(scenes, seed=7)
    assert pictures.shape == (360, 3, 32, 32)
    assert shapes.accuracy(pictures, scenes)["all"] >= 0.99
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(pictures.shape, generator=source)
    noisy = (pictures + 0.03 * noise).clamp(0, 1)
    assert shapes.accuracy(noisy, scenes)["all"] >= 0.99


def test_the_judge_is_not_fooled(shapes: Any):
    scenes = list(shapes.ALL)
    pictures = shapes.draw(scenes, seed=7)
    shares = shapes.accuracy(pictures, [scenes[0]] * len(scenes))
    assert shares == pytest.approx(
        {"colour": 1 / 6, "shape": 1 / 3, "ground": 1 / 4, "all": 1 / 72}
    )
    grey = torch.full((2, 3, 32, 32), 0.5)
    assert shapes.read(grey) == [{"ground": "grey", "colour": None, "shape": None}] * 2


def test_every_word_of_what_is_held_out_is_seen_elsewhere(shapes: Any):
    assert len(shapes.HELD_OUT) == 7
    assert not set(shapes.HELD_OUT) & set(shapes.SEEN)
    for word in ("colour", "shape", "ground"):
        words = {getattr(scene, word) for scene in shapes.SEEN}
        assert {getattr(scene, word) for scene in shapes.HELD_OUT} <= words


@pytest.mark.usefixtures("shapes")
def test_every_word_is_one_token():
    import prompts_model

    tokenizer = prompts_model.make_tokenizer()
    found = tokenizer(list(prompts_model.WORDS)).input_ids
    assert all(len(tokens) == 3 for tokens in found)
    assert len({tokens[1] for tokens in found}) == len(prompts_model.WORDS)
