"""Links in folders from elsewhere: followed only where they cannot lead to the user's own files."""

import os
from pathlib import Path

from pelap.core.errors import ModelError


def refuse_links_outside(folder: Path) -> None:
    """Refuse links that lead out of a folder, but to the blobs of a hub cache.

    Raises:
        ModelError: Names the link.
    """
    home = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            if path.is_symlink() and not _may_be_followed(path.resolve(), home):
                raise ModelError(
                    f"{path} is a link out of {folder}, which is not followed: put a copy of what "
                    "it leads to in its place."
                )


def _may_be_followed(target: Path, home: Path) -> bool:
    is_blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    return is_blob or target.is_relative_to(home)
