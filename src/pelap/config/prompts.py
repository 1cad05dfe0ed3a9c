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
    """A file with one a line; "varied" for 200 that come with pelap; "classes" for those of a model
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
        else:
            try:
                text = Path(self.prompts).expanduser().read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"--prompts {self.prompts} cannot be read as a text file with one prompt a "
                    f"line ({getattr(error, 'strerror', None) or 'not UTF-8'}): give a file, "
                    f"{VARIED}, or {CLASSES}."
                ) from error
        found = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines()))
        found = tuple(line for line in found if line)
        if not found:
            raise DataError(f"--prompts {self.prompts} holds no prompt: one a line.")
        return found
