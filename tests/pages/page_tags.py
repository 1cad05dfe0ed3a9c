"""What is on a page: its tags and their attributes, read as a browser would."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Names of all tags of a page, in order, and the values of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def values(self, *names: str) -> list[str]:
        """Of the attributes with one of these names."""
        return [value or "" for key, value in self.attributes if key in names]

    @property
    def addresses(self) -> list[str]:
        """Everything that the page would load or lead to."""
        return self.values("src", "href", "srcset")
