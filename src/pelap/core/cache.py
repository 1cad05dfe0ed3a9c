"""Where what can be made again is kept between commands."""

import os
from pathlib import Path

from pelap.core.errors import ConfigError


def cache_home() -> Path:
    """Where pelap keeps what it made between commands: $PELAP_CACHE, or pelap in the user's cache
    folder; it may not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PELAP_CACHE") or Path(home) / "pelap")


def cache_folder(*parts: str) -> Path:
    """A folder of pelap's cache, made where it is not yet.

    Args:
        parts: Names of the folders below it.

    Raises:
        ConfigError: If it cannot be made.
    """
    folder = cache_home().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made ({error.strerror}): set PELAP_CACHE to a folder for what "
            "pelap keeps between commands."
        ) from error
    return folder
