"""Mistakes a user can make and mend. The command line prints them in one line and exits 2."""


def in_one_line(error: BaseException, most: int = 200) -> str:
    """What an error of a library says, without line breaks and at most so many characters."""
    return " ".join(str(error).split())[:most]


class PelapError(Exception):
    """Base of every error that names a value, what was expected, and what to do."""


class ConfigError(PelapError):
    """A setting, preset or override that cannot be used."""


class DataError(PelapError):
    """Pictures that cannot be found, read or used at the asked size."""


class RunError(PelapError):
    """A run folder that is missing, incomplete, or in the way."""


class ModelError(PelapError):
    """A model that is missing, of a class that is not supported, or does not fit the others."""
