"""Where a recovery's checkpoints lie until its model is written."""

import shutil
from pathlib import Path

from pelap.config.run_folder import RunFolder
from pelap.core.files import remove_folder
from pelap.core.output import MARK, is_a_further_process


def recovery_folder(output: Path) -> RunFolder:
    """The folder beside `output`."""
    output = output.resolve()
    return RunFolder(output.with_name(f".{output.name}.recovery"))


def forget_finished(output: Path) -> None:
    """Remove the checkpoints of a recovery that was killed after its model was written.

    Files newer than the model at `output` belong to one that is still to be finished.
    """
    if is_a_further_process():
        return
    folder = recovery_folder(output)
    shutil.rmtree(folder.path.with_name(f".{folder.path.name}.old"), ignore_errors=True)
    mark, written = output / MARK, [path.stat().st_mtime_ns for path in folder.path.rglob("*")]
    if written and mark.is_file() and mark.stat().st_mtime_ns >= max(written):
        remove_folder(folder.path)
