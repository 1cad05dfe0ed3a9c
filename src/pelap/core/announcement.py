"""The first line of what takes long, before torch has been imported."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_BEFORE_FIRST_LINE = 2.0
"""Of what takes longer, that it began is said then."""


@contextmanager
def announced(label: str) -> Iterator[None]:
    """Say on stderr what is going on, if it takes long; of several processes the first does."""

    def say() -> None:
        if int(os.environ.get("RANK", "0")) == 0:
            print(label, file=sys.stderr)  # noqa: T201

    timer = threading.Timer(SECONDS_BEFORE_FIRST_LINE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
