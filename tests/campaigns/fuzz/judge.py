"""What may happen when a file is used, and what may not."""

import contextlib
import linecache
import os
import sys
import time
import traceback
import warnings
from pathlib import Path

import mlp_xp
from mlp_xp.cli.application import REFUSED

from .kinds import Kind

SECONDS = 1.0
"""Of all processors, for one file."""

BYTES = 200_000_000
"""Above the idle process, for one file."""

PACKAGE = str(Path(mlp_xp.__file__).parent)

FORBIDDEN = {
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system"),
    *(
        "pickle.find_class",
        "socket.bind",
        "socket.connect",
        "subprocess.Popen",
        "shutil.rmtree",
        "shutil.move",
    ),
    *("os.symlink", "os.link", "os.chmod", "os.chown"),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Judge:
    """Watches this process while it uses one file after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.seen: list[str] = []
        self.watching = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, given: tuple) -> None:
        """Note what a file must not lead to: code that runs, other processes, writing elsewhere."""
        if not self.watching:
            return
        if event == "subprocess.Popen" and given[0] == sys.executable:
            return  # what reads files on trial, after one has ended it
        if event in FORBIDDEN and not (event == "os.chmod" and self._is_inside(given[0])):
            self.seen.append(f"{event} {given!r:.200}")
        elif (
            event == "exec"
            and not Path(given[0].co_filename).exists()
            and "<frozen" not in given[0].co_filename
        ):
            self.seen.append(f"code of {given[0].co_filename} is run")
        elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate"):
            if not self._is_inside(given[0]):
                self.seen.append(f"{event} {given!r:.200}")
        elif event == "open" and not self._is_inside(given[0]):
            mode, flags = given[1], given[2]
            writes = any(mark in mode for mark in "wax+") if isinstance(mode, str) else flags & WRITING
            if writes and given[0] != os.devnull:
                self.seen.append(f"writes {given[0]!r}")

    def _is_inside(self, path: object) -> bool:
        return isinstance(path, int) or str(Path(os.fsdecode(path)).absolute()).startswith(self.folder)

    def use(self, kind: Kind, path: Path) -> tuple[str, list[str]]:
        """How it ended ("read" or "refused"), and what is wrong with that."""
        self.seen = []
        _forget_peak()
        idle = _resident()
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.watching = True
                ended = kind.use(path) or "read"
        except Exception as error:
            ended = "refused"
            self.seen += wrong_with(error, path, kind.says)
        finally:
            self.watching = False
        seconds, peak = time.process_time() - began, _peak() - idle
        if seconds > SECONDS:
            self.seen.append(f"took {seconds:.1f} s")
        if peak > BYTES:
            self.seen.append(f"took {peak / 1e6:.0f} MB")
        return ended, self.seen


def wrong_with(error: Exception, path: Path, says: tuple[str, ...]) -> list[str]:
    """Why an error is none of ours: raised by a `raise` of our own, with a message about the file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    found = []
    if not isinstance(error, (*REFUSED, FloatingPointError)):
        found.append("is of no kind that is explained")
    if not last.filename.startswith(PACKAGE) or not line.startswith("raise"):
        found.append(f"was raised at {Path(last.filename).name}:{last.lineno}: {line}")
    if path.stem not in str(error) and not str(error).startswith(says):
        found.append("does not name the file")
    return [f"{type(error).__name__} {each}: {str(error)[:300]!r}" for each in found]


def limit_memory(headroom: int) -> None:
    """Let no allocation go far beyond what is used now: what a header claims is not even reserved."""
    import resource  # of Unix alone

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _resident() -> int:
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")
