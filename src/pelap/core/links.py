"""What folders from elsewhere may hold: links only where they cannot lead to the user's own files,
and nothing that is read without end."""

import os
from collections.abc import Iterator
from pathlib import Path

from pelap.core.errors import ModelError


def check_contents(folder: Path) -> None:
    """Refuse links that lead out of a folder, but to the blobs of a hub cache; and what
    `refuse_endless` does.

    Raises:
        ModelError: Names the first.
    """
    home = folder.resolve()
    for path in _below(folder):
        if path.is_symlink() and not _may_be_followed(path.resolve(), home):
            raise ModelError(
                f"{path} is a link out of {folder}, which is not followed: put a copy of what "
                "it leads to in its place."
            )
    refuse_endless(folder)


def refuse_endless(folder: Path) -> None:
    """Refuse pipes, sockets and devices in a folder, which would be waited for.

    Raises:
        ModelError: Names the first.
    """
    for path in _below(folder):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ModelError(f"{path} is neither a file nor a folder: remove it.")


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place) / name for name in (*folders, *files))


def _may_be_followed(target: Path, home: Path) -> bool:
    is_blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    return is_blob or target.is_relative_to(home)
