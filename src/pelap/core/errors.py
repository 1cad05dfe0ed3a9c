"""Mistakes a user can make and mend. The command line prints them in one line and exits 2."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of too little memory, of a GPU or of the machine."""
    is_named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return is_named or "can't allocate memory" in str(error)


@contextmanager
def naming_batch(tried: str, remedy: str) -> Iterator[None]:
    """Say which batch there was too little memory for, and what needs less.

    Raises:
        RunError: In the place of an error of too little memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f"There is not enough memory for {tried}: {remedy}.") from error


@contextmanager
def foreign_errors(say: Callable[[str], PelapError], most: int = 200) -> Iterator[None]:
    """Say in one line whatever a class of another library raises, which share no base for what
    their configs or their input do to them.

    Our own errors and those of too little memory, which have lines of their own, pass.

    Args:
        say: Makes the error from what the library says.
        most: Characters of that.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PelapError) or is_out_of_memory(error):
            raise
        raise say(in_one_line(error, most)) from error
