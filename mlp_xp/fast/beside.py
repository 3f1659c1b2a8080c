"""What a thread does beside the steps that are made: load Numba, and compile."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Found = TypeVar("Found")

_NAME = "mlp_xp loads"


def beside(load: Callable[[], Found]) -> "Future[Found]":
    """Begin to call a function in a thread of its own, which ends with it."""
    pool = ThreadPoolExecutor(1, _NAME)
    try:
        return pool.submit(load)
    finally:
        pool.shutdown(wait=False)


def is_loading() -> bool:
    """Whether this process has something under way."""
    return any(thread.name.startswith(_NAME) for thread in threading.enumerate())
