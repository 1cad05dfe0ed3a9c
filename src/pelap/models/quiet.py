"""Libraries that load models say much that is of no use to who runs pelap."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from diffusers.utils import logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the progress bars of diffusers and transformers, and their warnings."""
    ours = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        if find_spec("transformers") is None:
            yield
            return
        from transformers.utils import logging as theirs

        level = theirs.get_verbosity()
        theirs.set_verbosity_error()
        theirs.disable_progress_bar()
        try:
            yield
        finally:
            theirs.set_verbosity(level)
            theirs.enable_progress_bar()
    finally:
        logging.set_verbosity(ours)
        logging.enable_progress_bar()
