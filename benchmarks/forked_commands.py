"""pelap's command line in a process that may be killed, denied its disk, or take too long.

A child of this process, so that torch is imported once and not for every try.
"""

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MEMORY = 24 << 30
"""Address space of a command, bytes: one that asks for more is told that there is none."""
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")
"""Audited operations that may change a folder."""
GRACE = 20.0
"""Seconds from SIGTERM to SIGKILL."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | None
    """Its exit code; None where a signal ended it."""
    is_hung: bool
    """Whether it took too long and did not end when it was asked to."""
    was_stopped: bool
    """Whether it took too long, and ended when it was asked to."""
    said: str
    """On stderr."""
    seconds: float
    num_changes: int
    """Operations on files of its folder."""

    @property
    def is_one_line(self) -> bool:
        """Whether it was refused as promised."""
        lines = [line for line in self.said.splitlines() if line.startswith("pelap: ")]
        return self.code == 2 and len(lines) == 1

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


def import_all() -> None:
    """Import what commands need, so that children need not."""
    import importlib

    from pelap.cli import VERBS

    for verb in VERBS:
        importlib.import_module(f"pelap.commands.{verb.replace(' ', '_')}")
    for name in ("commands.analyze_model", "commands.prune_model", "commands.recover_model",
                 "commands.diagnose_model", "commands.compare_models", "commands.sweep_trials",
                 "training.trainer", "measure.run_evaluation", "measure.run_sampling",
                 "exports.onnx_export", "pages.run_page"):  # fmt: skip
        importlib.import_module(f"pelap.{name}")


def run_command(
    words: Sequence[str],
    place: Path,
    *,
    kill_after: float | None = None,
    kill_at: int | None = None,
    file_limit: int | None = None,
    timeout: float = 120.0,
) -> Ended:
    """Run `pelap WORDS` in a folder.

    Args:
        words: Of the command line.
        place: The folder it runs in; its cache lies there too.
        kill_after: Seconds to SIGKILL, of the command and of all that it started.
        kill_at: The operation on a file of the folder, from 1, before which it dies.
        file_limit: Largest file that it may write, bytes.
        timeout: Seconds it may take.
    """
    return _start(words, place, "", kill_at, file_limit).wait(kill_after, timeout)


def run_pair(
    words: Sequence[str], place: Path, delay: float, timeout: float = 120.0
) -> tuple[Ended, Ended]:
    """Run the same command twice at once, the second `delay` seconds after the first."""
    first = _start(words, place, "-first")
    time.sleep(delay)
    second = _start(words, place, "-second")
    return first.wait(None, timeout), second.wait(None, timeout)


@dataclass(frozen=True)
class _Running:
    child: int
    begun: float
    log: Path
    count: Path

    def wait(self, kill_after: float | None, timeout: float) -> Ended:
        status, is_hung, was_stopped = None, False, False
        while status is None:
            found, how = os.waitpid(self.child, os.WNOHANG)
            spent = time.monotonic() - self.begun
            if found:
                status = how
            elif kill_after is not None and spent > kill_after:
                _signal_all(self.child, signal.SIGKILL)
            elif spent > timeout + GRACE:
                is_hung = True
                _signal_all(self.child, signal.SIGKILL)
            elif spent > timeout and not was_stopped:
                was_stopped = True
                os.kill(self.child, signal.SIGTERM)
            time.sleep(0.005)
        _signal_all(self.child, signal.SIGKILL)  # what it had started
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        seconds = time.monotonic() - self.begun
        num_changes = int(self.count.read_text() or 0)
        return Ended(code, is_hung, was_stopped, said, seconds, num_changes)


def _start(
    words: Sequence[str],
    place: Path,
    name: str,
    kill_at: int | None = None,
    file_limit: int | None = None,
) -> _Running:
    log, count = place.parent / f"stderr{name}", place.parent / f"changes{name}"
    count.write_text("0")
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_the_command(words, place, log, count, kill_at, file_limit)
    return _Running(child, begun, log, count)


def _signal_all(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _be_the_command(
    words: Sequence[str],
    place: Path,
    log: Path,
    count: Path,
    kill_at: int | None,
    file_limit: int | None,
) -> None:
    """Never returns."""
    code = 1
    try:
        os.setsid()
        for number, path in ((0, os.devnull), (1, os.devnull), (2, str(log))):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number == 2 else 0))
            os.dup2(opened, number)
        os.chdir(place)
        os.environ |= {"PELAP_CACHE": str(place / ".cache"), "HF_HUB_OFFLINE": "1"}
        sys.argv = ["pelap", *words]
        from pelap.cli import main

        audit = _Changes(str(place), kill_at)
        sys.addaudithook(audit)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        code = main()
        audit.is_on = False
        count.write_text(str(audit.num))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


class _Changes:
    """Counts operations on files of a folder, and dies before one of them."""

    def __init__(self, place: str, kill_at: int | None):
        self.place, self.kill_at = place, kill_at
        self.num, self.is_on = 0, True

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.is_on or event not in CHANGES:
            return
        path = arguments[0]
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            reads = not any(letter in (mode or "r") for letter in "wxa+")
            if reads and not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not str(Path(os.fsdecode(path)).absolute()).startswith(self.place):
            return
        self.num += 1
        if self.num == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def listing(place: Path) -> list[str]:
    """All files below a folder but those of its cache."""
    found = [str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()]
    return sorted(name for name in found if not name.startswith(".cache/"))


def weights_digest(folder: Path) -> str:
    """Of all safetensors files and pictures below a folder: what is the same in every call."""
    found = hashlib.sha256()
    for path in sorted([*folder.rglob("*.safetensors"), *folder.rglob("0*.png")]):
        found.update(f"{path.relative_to(folder)}".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def fresh(home: Path, place: Path) -> Path:
    """A copy of a folder's content, in the place of what stands there."""
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(home, place, dirs_exist_ok=True)
    return place


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[], None] | None]:
    """A new file system of `size` bytes at `place`, and what makes it large; None where there can
    be none."""
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    place.mkdir(exist_ok=True)
    if subprocess.run(options, capture_output=True, check=False).returncode:
        yield None
        return

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
