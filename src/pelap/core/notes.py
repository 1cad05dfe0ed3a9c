"""What a user should know beside the result, on stderr. No torch here."""

import os
import sys
from functools import cache


def note(text: str) -> None:
    """Say a sentence, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {printable(text)}", file=sys.stderr)  # noqa: T201


note_once = cache(note)
"""As `note`, but the same sentence only once."""


def printable(text: str) -> str:
    """The text with control characters spelled out, but for line breaks: names of files can hold
    sequences that a terminal obeys."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
