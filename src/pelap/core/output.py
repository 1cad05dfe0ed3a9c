"""Where a verb writes a folder: whole or not at all, one command at a time, over nothing foreign.

A folder that pelap wrote holds a mark, `.pelap.json`, with the names of its files. Only such a
folder is ever replaced, and only while it holds nothing else.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pelap.core.errors import ConfigError, RunError
from pelap.core.files import sync, sync_folder

MARK = ".pelap.json"


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse to write over something.

    Args:
        output: The folder to be.
        overwrite: Whether a folder that pelap made may be replaced.

    Raises:
        ConfigError: If `output` is not empty, and is not to be replaced or not pelap's alone; or it
            is a mount point.
    """
    if os.path.ismount(output):
        raise ConfigError(
            f"{output} is a mount point, which cannot be replaced: give a folder in it, "
            f"{output / 'model'}."
        )
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise ConfigError(f"{output} exists: give another --output, or --overwrite.")
    foreign = _first_foreign(output)
    if foreign is not None:
        raise ConfigError(
            f"{output} holds {foreign}, which pelap did not make, so it is not replaced: "
            "give another --output."
        )


@contextmanager
def claimed(output: Path | None, overwrite: bool) -> Iterator[None]:
    """Keep other commands from writing to the folder `output` meanwhile, and check that it may be
    written; nothing is written by this.

    Raises:
        ConfigError: See `check_output`.
        RunError: If another command is about to write there.
    """
    with locked(output):
        if output is not None and not is_a_further_process():
            output = output.resolve()
            _put_back(output)
            check_output(output, overwrite)
        yield


@contextmanager
def locked(output: Path | None) -> Iterator[None]:
    """Keep other commands from writing to a file or folder meanwhile.

    Of several processes of one command the first has it for all. The system gives the lock up when
    the process dies. It lies beside `output`, or in it where only there may be written.

    Raises:
        ConfigError: If `output` is no place for a file or folder.
        RunError: If another command is about to write there.
    """
    if output is None or is_a_further_process():
        yield
        return
    output = output.resolve()
    if not output.name:
        raise ConfigError(f"--output {output} is no folder that can be made.")
    missing = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(output):
            yield
    finally:
        for parent in missing:  # nothing was written there
            with suppress(OSError):
                parent.rmdir()


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    is_inside = output.is_dir() and not os.access(output.parent, os.W_OK)
    home = output if is_inside else output.parent
    digest = hashlib.sha256(str(output).encode()).hexdigest()[:8]
    path = home / f".{output.name}.{digest}.lock"
    lock = FileLock(path, timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{output} is being written by another command: wait for it, or give another --output."
        ) from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)
        lock.release()


def is_a_further_process() -> bool:
    """Whether another process of the same command writes for this one."""
    return int(os.environ.get("RANK", "0")) > 0


def write_output(output: Path, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Let `write` fill a temporary folder beside `output`, then put it in the place of `output`.

    If `write` raises, or the process dies, what stood at `output` stands there again, at the latest
    when the next command writes there.

    Args:
        output: The folder.
        write: Is called with the temporary folder.
        overwrite: Whether a folder that pelap made may be replaced.

    Raises:
        ConfigError: See `check_output`.
        RunError: If another command is about to write there.
    """
    output = output.resolve()
    with claimed(output, overwrite):
        partial, old = _beside(output, "partial"), _beside(output, "old")
        for leftover in (partial, old):
            _remove_own(leftover)
        partial.mkdir(parents=True)
        _mark(partial)
        try:
            write(partial)
            _mark(partial)
            sync_folder(partial)
        except BaseException:
            _remove(partial)
            raise
        check_output(output, overwrite)
        if output.exists():
            output.rename(old)
        partial.rename(output)
        sync(output.parent)
        if old.exists():
            _remove(old)


def _beside(output: Path, kind: str) -> Path:
    return output.with_name(f".{output.name}.{kind}")


def _put_back(output: Path) -> None:
    """What a command that died between two renamings had moved aside."""
    old = _beside(output, "old")
    if not output.exists() and (old / MARK).is_file():
        old.rename(output)


def _mark(folder: Path) -> None:
    (folder / MARK).write_text(json.dumps({"made_by": "pelap", "files": _files(folder)}) + "\n")


def _remove_own(folder: Path) -> None:
    """Remove a leftover of ours.

    Raises:
        ConfigError: If it is not ours.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not (folder / MARK).is_file() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is in the way, and pelap did not make it: move it away.")
    _remove(folder)


def _remove(folder: Path) -> None:
    """The mark goes last, so that what is left of an interrupted removal is still ours."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    shutil.rmtree(folder)


def _first_foreign(output: Path) -> str | None:
    """A file at `output` that its mark does not name; None if there is none."""
    if not output.is_dir() or output.is_symlink():
        return "a file or a link"
    try:
        named = json.loads((output / MARK).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        named = []
    known = {MARK, *(named if isinstance(named, list) else [])}
    return next((name for name in _files(output) if name not in known), None)


def _files(folder: Path) -> list[str]:
    """Files and links below a folder, links not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [str((Path(place) / name).relative_to(folder)) for name in (*files, *links)]
    return sorted(name for name in found if name != MARK)
