"""Gathering the next rows in the background while the current ones train.

Whether that pays is measured, not assumed: the first blocks are gathered in line; where that takes a
noticeable part of the time (rows from a disk, a small network), a thread gathers the next ones, and the
faster way is kept. What is gathered, and in which order, is the same either way.
"""

import collections
import itertools
import queue
import statistics
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Filled = TypeVar("Filled")
Ranges = list[tuple[int, int]]

MEASURED_BLOCKS = 16
"""Blocks after which a way of gathering is known well enough to be compared."""

TRIED_FROM = 0.15
"""The part of the time spent gathering above which a thread is tried. Rows in memory take 2 to 10% of an
epoch: nothing to win, and a thread can make it 15% longer."""

MUST_SAVE = 0.1
"""The part of the time that a thread must have saved to be kept: less is noise."""

SLOTS = 3
"""Sets of buffers in a background epoch: one trains, one waits, one is being filled."""


class Pace:
    """Seconds that the latest blocks took, over the epochs of one loader.

    Attributes
    ----------
    gathering, in_line : deque of float
        To gather a block in the thread that trains, and to gather it and train on it.
    in_background : deque of float
        To train on a block, and to wait for it, while a thread gathers.
    """

    def __init__(self) -> None:
        self.gathering: collections.deque[float] = collections.deque(maxlen=MEASURED_BLOCKS)
        self.in_line: collections.deque[float] = collections.deque(maxlen=MEASURED_BLOCKS)
        self.in_background: collections.deque[float] = collections.deque(maxlen=MEASURED_BLOCKS)

    def plan(self) -> tuple[bool, int | None]:
        """Whether a thread gathers the next blocks, and how many until more is known; None for all."""
        if missing := MEASURED_BLOCKS - len(self.in_line):
            return False, missing
        in_line = statistics.median(self.in_line)
        if statistics.median(self.gathering) < TRIED_FROM * in_line:
            return False, None
        if missing := MEASURED_BLOCKS - len(self.in_background):
            return True, missing
        return statistics.median(self.in_background) < (1 - MUST_SAVE) * in_line, None


def in_line(
    fill: Callable[[Ranges, int], Filled], blocks: Iterable[Ranges], pace: Pace
) -> Generator[Filled, None, int]:
    """Fill one block after the other, in the caller's thread; return how many there were."""
    n_blocks = 0
    for each in blocks:
        began = time.perf_counter()
        block = fill(each, 0)
        filled = time.perf_counter()
        yield block
        pace.gathering.append(filled - began)
        pace.in_line.append(time.perf_counter() - began)
        n_blocks += 1
    return n_blocks


def in_background(
    fill: Callable[[Ranges, int], Filled], blocks: Iterable[Ranges], pace: Pace
) -> Generator[Filled, None, int]:
    """Fill blocks in a thread, up to `SLOTS` − 1 ahead; return how many there were.

    A block is valid until the next is asked for. The thread ends with this generator: at the end, after a
    break, an error or Ctrl-C. An error in it is raised here.
    """
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    filled: queue.SimpleQueue[tuple[int, Filled] | BaseException | None] = queue.SimpleQueue()
    over = threading.Event()

    def work() -> None:
        try:
            for each in blocks:
                slot = free.get()
                if over.is_set():
                    return
                filled.put((slot, fill(each, slot)))
            filled.put(None)
        except BaseException as error:  # whatever it is, it belongs to the thread that trains
            filled.put(error)

    for slot in range(SLOTS):
        free.put(slot)
    thread = threading.Thread(target=work, name="mlp_xp prefetch", daemon=True)
    n_blocks, began = 0, time.perf_counter()
    try:
        thread.start()
        while (item := filled.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            slot, block = item
            yield block
            free.put(slot)
            n_blocks += 1
            ended = time.perf_counter()
            pace.in_background.append(ended - began)
            began = ended
    finally:
        over.set()
        free.put(0)
        if thread.is_alive():  # Ctrl-C may come before it has started
            thread.join()
    return n_blocks


def prefetched(
    fill: Callable[[Ranges, int], Filled], blocks: Iterable[Ranges], pace: Pace, mode: str = "auto"
) -> Generator[Filled]:
    """Yield blocks of rows, each valid until the next is asked for.

    `fill` gathers ranges of positions of an epoch into the buffers of a slot: by a thread, "always", "never",
    or, in mode "auto", where the pace so far, which is updated, says that it pays.
    """
    rest = iter(blocks)
    while True:
        by_thread, n_planned = pace.plan() if mode == "auto" else (mode == "always", None)
        gather = in_background if by_thread else in_line
        n_blocks = yield from gather(fill, itertools.islice(rest, n_planned), pace)
        if n_planned is None or n_blocks < n_planned:
            return
