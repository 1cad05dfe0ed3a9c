"""The one progress bar: on stderr, at a terminal, in the first process."""

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pelap.core.announcement import SECONDS_BEFORE_FIRST_LINE
from pelap.core.processes import process_index

SECONDS_BETWEEN_LINES = 30.0
"""Where there is no terminal for a bar."""

Item = TypeVar("Item")


class ProgressBar:
    """How many of how many steps are done, and how long the rest will take.

    Args:
        label: What is being done.
        total: Number of steps.
        done: How many of them were done before.
        is_transient: Whether the bar vanishes at its end.
        pictures_a_step: Where given, the plain lines say how many pictures a second it takes.

    Where stderr is no terminal, a plain line now and then says how far it is.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        *,
        is_transient: bool = True,
        pictures_a_step: int | None = None,
    ):
        self.label = label
        self.total = total
        self.words = ""
        self.pictures_a_step = pictures_a_step
        self.done = done
        self.last_line = (time.monotonic(), done)
        self.first_line = threading.Timer(SECONDS_BEFORE_FIRST_LINE, self._say_begun)
        self.first_line.daemon = True
        self.console = Console(stderr=True, soft_wrap=True, quiet=process_index() != 0)
        self.is_shown = self.console.is_terminal and process_index() == 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=self.console,
            transient=is_transient,
            disable=not self.is_shown,
        )
        self.task = self.progress.add_task(label, total=total, completed=done, words="")

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        if not self.is_shown:
            self.first_line.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.first_line.cancel()
        self.progress.stop()

    def _say_begun(self) -> None:
        self.print(f"{self.label} · step {self.done:,} of {self.total:,}")

    def advance(self) -> None:
        """One more step is done."""
        self.move_to(self.done + 1)

    def move_to(self, done: int) -> None:
        """Show that so many steps are done."""
        self.done = done
        self.progress.update(self.task, completed=done)
        now, (then, before) = time.monotonic(), self.last_line
        if self.is_shown or now - then < SECONDS_BETWEEN_LINES:
            return
        self.last_line = (now, done)
        seconds = (now - then) / max(1, done - before)
        parts = (
            self.label,
            f"step {done:,} of {self.total:,}",
            self.words,
            f"{self.pictures_a_step / seconds:,.1f} pictures/s" if self.pictures_a_step else "",
            f"{timedelta(seconds=round(seconds * (self.total - done)))} left",
        )
        self.print(" · ".join(part for part in parts if part))

    def show(self, words: str) -> None:
        """Say these words too, from now on."""
        self.words = words
        self.progress.update(self.task, words=words)

    def print(self, line: str, style: str | None = None) -> None:
        """Print a line above the bar; also where there is no terminal."""
        self.console.print(line, style=style)


def track(
    items: Sequence[Item], label: str | None, pictures_a_step: int | None = None
) -> Iterator[Item]:
    """The same items, with a bar that moves on after each.

    Args:
        items: What is gone through.
        label: Stands before the bar; None for no bar.
        pictures_a_step: See `ProgressBar`.
    """
    if label is None:
        yield from items
        return
    with ProgressBar(label, len(items), pictures_a_step=pictures_a_step) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.move_to(done)
