"""Gathering the next rows in the background while the current ones train.

Whether that pays is measured, not assumed: the first blocks of an epoch are gathered in line, and a thread
takes over where gathering took a noticeable part of the time (rows from a disk, a small network). What is
gathered, and in which order, is the same either way.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

Block = TypeVar("Block")
Ranges = list[tuple[int, int]]

MEASURED_BLOCKS = 8
"""Blocks after which gathering and training are compared."""

PAYS_FROM = 0.25
"""The part of the time spent gathering above which a thread gathers. Below it handing over costs more than it
saves: with rows in memory gathering takes 2 to 10% of an epoch, and a thread makes that up to 15% longer."""

SLOTS = 3
"""Sets of buffers in a background epoch: one trains, one waits, one is being filled."""


class Pace:
    """How long gathering and everything else took, over the epochs of one loader.

    Attributes
    ----------
    gathering, total : float
        Seconds.
    blocks : int
        Blocks measured.
    """

    def __init__(self) -> None:
        self.gathering = self.total = 0.0
        self.blocks = 0

    @property
    def pays(self) -> bool | None:
        """Whether a thread pays; None while too little is known."""
        if self.blocks < MEASURED_BLOCKS:
            return None
        return self.gathering > PAYS_FROM * self.total


def in_line(fill: Callable[[Ranges, int], Block], blocks: Iterable[Ranges], pace: Pace) -> Generator[Block]:
    """Fill one block after the other, in the caller's thread, and measure."""
    for each in blocks:
        began = time.perf_counter()
        block = fill(each, 0)
        filled = time.perf_counter()
        yield block
        pace.gathering += filled - began
        pace.total += time.perf_counter() - began
        pace.blocks += 1


def in_background(fill: Callable[[Ranges, int], Block], blocks: Iterator[Ranges]) -> Generator[Block]:
    """Fill blocks in a thread, up to `SLOTS` − 1 ahead; a block is valid until the next is asked for.

    The thread ends with this generator: at the end, after a break, an error or Ctrl-C. An error in it is
    raised here.
    """
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    filled: queue.SimpleQueue[tuple[int, Block] | BaseException | None] = queue.SimpleQueue()
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
    thread.start()
    try:
        while (item := filled.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            slot, block = item
            yield block
            free.put(slot)
    finally:
        over.set()
        free.put(0)
        thread.join()


def prefetched(
    fill: Callable[[Ranges, int], Block], blocks: Iterable[Ranges], pace: Pace, mode: str = "auto"
) -> Generator[Block]:
    """Yield blocks of rows, each valid until the next is asked for.

    Parameters
    ----------
    fill : callable (ranges, slot) -> block
        Gathers ranges of positions of an epoch into the buffers of a slot.
    blocks : iterable of lists of (start, stop)
        The ranges of each block.
    pace : Pace
        What is known so far about gathering; updated.
    mode : "auto", "always" or "never"
        Whether a thread gathers.
    """
    rest = iter(blocks)
    if mode == "never" or (mode == "auto" and pace.pays is False):
        yield from in_line(fill, rest, pace)
        return
    if mode == "auto" and pace.pays is None:
        for each in rest:
            yield from in_line(fill, [each], pace)
            if pace.pays is not None:
                break
        if not pace.pays:
            yield from in_line(fill, rest, pace)
            return
    yield from in_background(fill, rest)
