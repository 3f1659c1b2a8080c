"""Files of formats that have types are read once on trial, in another process, before they are in this one.

Their reader believes what a file says of itself: 6 kB can ask for gigabytes and take a minute, and a fault in
it ends the process. The trial has a limit of memory that follows from the size of the file, and may die: that
becomes our error. Of a file above 64 MiB only the start is tried: its limit would be more than there is, and
all of it twice would take half as long again. A trial costs the start of a process and up to 64 MiB of
decoding (0.4 s) before the first conversion; rows that are in memory or in the cache are not read again.
Remote files are not tried, nor is what this process has just written itself (`own_file`). Files of text say
no sizes, and need no trial. Without it a damaged file ends the caller's process or takes all memory: nothing
that pyarrow offers looks at sizes before it allocates.
"""

import contextlib
import contextvars
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlp_xp.rows.files import File, local_file
from mlp_xp.settings import checks
from mlp_xp.tables.files.arrow_files import FORMATS, Format
from mlp_xp.tables.files.signatures import FAULTS
from mlp_xp.tables.files.typed_table import TypedTable, read

SPARE_BYTES = 128 << 20
"""Memory that reading any file may take."""

GROWTH = 64
"""Memory, beyond that, that it may take for each byte of the file."""

WHOLE_BYTES = 64 << 20
"""Files up to here are tried whole; of larger ones so many bytes of columns."""

ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
"""Little memory that is only reserved, so that the limit is on what is used."""

MOST_THREADS = 4

_own: contextvars.ContextVar[str | None] = contextvars.ContextVar("own file", default=None)


@contextlib.contextmanager
def own_file(path: str) -> Iterator[None]:
    """What is at an absolute path is ours: inside it is read without a trial."""
    before = _own.set(path)
    try:
        yield
    finally:
        _own.reset(before)


class Sandbox:
    """The process that reads on trial; it ends with the block.

    Examples
    --------
    >>> with Sandbox() as sandbox:
    ...     sandbox.read("Parquet", local_file("big.parquet"), ["a", "b"])  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Sandbox":
        """Nothing yet: the process is started when there is something to read."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._end()

    def _end(self) -> int:
        """End the process; its status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()
        return process.returncode

    def read(self, form: str, file: File, names: Sequence[str]) -> None:
        """Read the columns `names` of a local file.

        Raises ValueError: it cannot be read, or not in the memory that there is for a file of its size.
        """
        answer = self._ask(json.dumps({"form": form, "path": file.path, "names": list(names)}))
        if answer is not None:
            checks.refuse([answer["refused"]])
            return
        raise ValueError(
            f"{file.path} can not be read: it ended the process in which it was read on trial (status "
            f"{self._end()}). It is damaged; write it again."
        )

    def _ask(self, request: str) -> Any:
        """The answer; None if the process ended instead."""
        if self._process is None:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    (
                        "import json, sys; sys.path[:] = json.loads(input()); "
                        "from mlp_xp.tables.files.sandbox import serve; serve()"
                    ),
                ],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
            )
            request = f"{json.dumps(sys.path)}\n{request}"
        stdin, stdout = self._process.stdin, self._process.stdout
        line = ""
        if stdin is not None and stdout is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(request + "\n")
                line = stdout.readline()
        return json.loads(line) if line.endswith("\n") else None


def read_in_sandbox(table: TypedTable, names: Sequence[str]) -> None:
    """Read all local files of a table on trial.

    Raises ValueError: one of them cannot be read.
    """
    with Sandbox() as sandbox:
        for file in table.files:
            if not file.remote and file.path != _own.get():
                sandbox.read(table.form.name, file, names)


def serve() -> None:
    """Read what standard input asks for, line by line, and say how it went."""
    import pyarrow as pa

    pa.set_cpu_count(min(MOST_THREADS, pa.cpu_count()))
    pa.set_io_thread_count(1)
    for line in sys.stdin:
        request = json.loads(line)
        file = local_file(request["path"])
        refused = None
        _limit_memory(SPARE_BYTES + GROWTH * file.size)
        try:
            for n_bytes in itertools.accumulate(_sizes(FORMATS[request["form"]], file, request["names"])):
                if file.size > WHOLE_BYTES and n_bytes > WHOLE_BYTES:
                    break
        except (ValueError, MemoryError) as error:
            refused = str(error)
        except FAULTS:
            pass  # which are raised again where the file is read in earnest
        sys.stdout.write(json.dumps({"refused": refused}) + "\n")
        sys.stdout.flush()


def _sizes(form: Format, file: File, names: Sequence[str]) -> Iterator[int]:
    """Read a file as it is read to be converted; yield the bytes of each batch."""
    look = form.looked_at or form.batches
    for part in read(form, form.parts, file):
        for batch in read(form, look, part, names):
            yield batch.nbytes


def _limit_memory(spare: int) -> None:
    """Let this process have so many bytes more than now, on systems that can see to it."""
    if sys.platform == "linux":
        import resource

        lines = Path("/proc/self/status").read_text().splitlines()
        now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + spare, resource.getrlimit(resource.RLIMIT_DATA)[1]))
