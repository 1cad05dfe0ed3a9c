"""Pictures that a model draws itself, said before they are drawn. No torch here."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pelap.core.errors import ConfigError, DataError

CLASSES, VARIED = "classes", "varied"


@dataclass(frozen=True)
class PromptPictures:
    """What a model is asked to draw, in place of pictures that one would have to have."""

    prompts: str
    """A file, one a line; "varied" for 200 that come with pelap; "classes" for those of a model
    that takes classes."""
    num_drawn: int = 1000
    """Pictures; prompts and classes take turns."""
    guidance: float | None = None
    """Of the drawing; the pipeline's own by default."""
    num_steps: int | None = None
    """Of its scheduler; the pipeline's own by default."""
    seed: int = 0
    """Of the noise."""

    def check(self) -> None:
        """Refuse values that no drawing can have.

        Raises:
            ConfigError: Names the option, its value and what it must be.
            DataError: If the file cannot be read, or holds no prompt.
        """
        for option, value, least in (
            ("--num-drawn", self.num_drawn, 2),
            ("--drawn-steps", self.num_steps, 1),
            ("--drawn-guidance", self.guidance, 0),
        ):
            if value is not None and not least <= value < float("inf"):
                raise ConfigError(f"{option} is {value}: at least {least}.")
        if self.prompts != CLASSES:
            self.read()

    def read(self) -> tuple[str, ...]:
        """The prompts, none twice.

        Raises:
            DataError: If the file cannot be read, or holds none.
        """
        if self.prompts == VARIED:
            text = files("pelap.config").joinpath("varied_prompts.txt").read_text("utf-8")
            return tuple(text.splitlines())
        return tuple(dict.fromkeys(read_prompts("--prompts", Path(self.prompts))))


def read_prompts(option: str, path: Path) -> list[str]:
    """The lines of a file that are not empty.

    Args:
        option: That names the file.
        path: A text file, a prompt or a class a line.

    Raises:
        DataError: If it cannot be read as text, or is empty.
    """
    try:
        text = path.expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise DataError(
            f"{option} {path} cannot be read as text ({reason}): give a file with a prompt or a "
            "class a line."
        ) from error
    lines = [" ".join(line.split()) for line in text.splitlines()]
    if not (found := [line for line in lines if line]):
        raise DataError(f"{option} {path} is empty: give a prompt or a class a line.")
    return found
