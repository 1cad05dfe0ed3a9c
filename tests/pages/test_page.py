"""The builder of pages: each kind of part, the figures beside the page, nothing half written."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from page_tags import Tags

from pelap.pages.page import (
    Card,
    Cell,
    Items,
    PartGroup,
    Section,
    Table,
    Text,
    draw_card,
    text_table,
    write_page,
)

pytestmark = pytest.mark.usefixtures("small_figures")


def card(name: str, title: str = "A title") -> Card:
    return draw_card(name, title, "A caption.", "What it shows.", lambda: Figure(figsize=(2, 1)))


def body(page: str) -> str:
    """Without style sheet, pictures and space between tags."""
    shown = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page[page.index("<main>") :])
    return re.sub(r"\s*\n\s*", "", shown)


def test_every_part_is_shown(tmp_path: Path):
    table = Table(["model", "cost"], [[Cell("a", ("pruned",)), Cell("1", ("× 0.5",), best=True)]])
    head = [Text("First.", "lead"), Items([3, 5], chips="Channels to keep")]
    parts = [
        Text("A line\n  of a command", "command"),
        table,
        text_table(["x", "y"], [["1", "2"]], "compact"),
        PartGroup("Framed", [Items(["a reason"])]),
        PartGroup("More", [card("folded")], folded=True),
    ]
    path = write_page(tmp_path / "new" / "a.html", "kind", "Title", head, [Section("One", parts)])

    page = path.read_text()
    assert path == tmp_path / "new" / "a.html"
    assert "<title>pelap kind: Title</title>" in page
    assert '<pre class="command">A line\n  of a command</pre>' in page
    shown = body(page)
    for expected in (
        '<h1>Title</h1><p class="lead">First.</p>'
        '<ul class="chips" aria-label="Channels to keep"><li>3</li><li>5</li></ul></header>',
        "<section><h2>One</h2>",
        '<th scope="col">model</th><th scope="col">cost</th>',
        '<th scope="row">a<small>pruned</small></th>'
        "<td><strong>1</strong><small>× 0.5</small></td>",
        '<div class="scroll compact"',
        '<div class="run"><h3>Framed</h3><ul><li>a reason</li></ul></div>',
        '<details><summary>More</summary><figure id="folded">',
        "<h3>A title</h3>",
        'alt="What it shows."',
        "<figcaption>A caption.</figcaption>",
    ):
        assert expected in shown, expected
    assert [file.name for file in (tmp_path / "new" / "figures").iterdir()] == ["folded.png"]


def test_a_section_without_parts_is_left_out(tmp_path: Path):
    sections = [Section("Empty", []), Section("Full", [Text("x")])]
    page = write_page(tmp_path / "a.html", "kind", "Title", [], sections).read_text()

    assert "Empty" not in page
    assert Tags(page).names.count("section") == 1


def test_text_is_never_markup(tmp_path: Path):
    odd = '<b>"&</b>'
    parts = [
        Text(odd),
        Items([odd]),
        text_table([odd], [[odd]]),
        card("x", odd),
        PartGroup(odd, []),
    ]
    page = write_page(tmp_path / "a.html", odd, odd, [Text(odd)], [Section(odd, parts)]).read_text()

    assert "b" not in Tags(page).names
    assert page.count("&lt;b&gt;&#34;&amp;&lt;/b&gt;") == 11


def test_nothing_is_written_of_a_page_that_cannot_be_rendered(tmp_path: Path):
    wrong: list = [card("x"), object()]
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "out" / "a.html", "kind", "Title", [], [Section("One", wrong)])
    assert not (tmp_path / "out").exists()
