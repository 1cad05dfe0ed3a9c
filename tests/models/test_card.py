"""Cards of changed models keep what the old card said, and name what they come from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import RepoCard

from pelap.models.card import whole_card
from pelap.models.loaded import LoadedModel
from pelap.models.opening import open_model
from tiny_pipelines import PIPELINES

OLD = """---
license: other
license_name: stability-ai
tags: text-to-image
model-index:
- name: broken
---

# The original
"""


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    torch.manual_seed(0)
    PIPELINES["ldm"]().save_pretrained(tmp_path / "ldm")
    return open_model(tmp_path / "ldm")


def test_what_the_old_card_said_is_kept(model: LoadedModel):
    assert model.folder is not None
    (model.folder / "README.md").write_text(OLD)
    card = RepoCard(whole_card(model, "# Smaller"))
    assert card.data["license"] == "other"
    assert card.data["license_name"] == "stability-ai"
    assert card.data["tags"] == ["text-to-image", "pelap"]
    assert card.data["model-index"] == [{"name": "broken"}]
    assert "base_model" not in card.data  # a folder is no id of the hub
    assert str(card.text).index("# Smaller") < str(card.text).index("# The original")


def test_a_model_of_the_hub_is_named_once(model: LoadedModel):
    pulled = replace(model, name="owner/name")
    first = whole_card(pulled, "# Half")
    assert RepoCard(first).data["base_model"] == "owner/name"
    pulled.autoencoder.register_to_config(_pelap=[{"kept": [0]}])  # type: ignore[operator]
    again = RepoCard(whole_card(replace(pulled, name="me/half", card=first), "# Recovered"))
    assert again.data["base_model"] == "owner/name"
    assert again.data["tags"] == ["pelap"]
    assert str(again.text).count("# Half") == 1


@pytest.mark.parametrize("old", ["", "---\n- a list\n---\n# Old", "---\nbroken: [\n---\n# Old"])
def test_odd_cards_are_no_obstacle(model: LoadedModel, old: str):
    card = whole_card(replace(model, card=old or None), "# New")
    assert RepoCard(card).data["library_name"] == "diffusers"
    assert "# New" in card


def test_a_card_in_another_encoding_is_read(model: LoadedModel):
    assert model.folder is not None
    (model.folder / "README.md").write_bytes("# Für alle".encode("latin-1"))
    assert "r alle" in whole_card(model, "# New")
