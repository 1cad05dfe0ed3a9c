"""The model card of a changed model: what was done, in front of what the card said before."""

from huggingface_hub import CardData, RepoCard
from yaml import YAMLError

from pelap.models.loaded import LoadedModel


def whole_card(model: LoadedModel, ours: str) -> str:
    """Our card in front of the old one, whose metadata (license, languages, …) are kept.

    A model of the hub becomes the `base_model` of what is made of it.

    Args:
        model: Before the change.
        ours: Markdown.
    """
    data, text = _split(_old_card(model))
    if model.folder is not None and model.name.count("/") == 1 and not model.history:
        data["base_model"] = model.name
    data["library_name"] = data.get("library_name", "diffusers")
    tags = data.get("tags", [])
    data["tags"] = [*(tags if isinstance(tags, list) else [tags]), "pelap"]
    data["tags"] = list(dict.fromkeys(data["tags"]))
    body = f"{ours.rstrip()}\n" + (f"\n{text.lstrip()}" if text.strip() else "")
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _split(card: str) -> tuple[CardData, str]:
    """Metadata and text; all of it is text where the metadata cannot be read."""
    if card.startswith("---"):
        try:
            read = RepoCard(card)
            return read.data, str(read.text)
        except (ValueError, YAMLError):
            card = card.replace("---", "```", 2)
    return CardData(), card


def _old_card(model: LoadedModel) -> str:
    if model.card:
        return model.card
    path = None if model.folder is None else model.folder / "README.md"
    if path is None or not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
